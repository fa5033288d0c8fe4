"""Asks exporters for JSON, several at once, and checks that it is what this plugin can read."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Target
from exporter.quantities import Duration

UNREADABLE = "its answer is none that this plugin can read: is that exporter of another version?"
# A kubectl each: so many do not bring a laptop down.
AT_ONCE = 64
# For the way there and back, beside the time that is watched: one node that hangs must not keep the others' numbers.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the exporter at a place said: an object, or in one sentence why there is none."""

    place: Target
    found: dict[str, Any]
    problem: str = ""


def ask_all(
    kubectl: Kubectl, places: Sequence[Target], commands: Sequence[Sequence[str]], watch: str
) -> Iterator[Answer]:
    """The answers to one command each, which watches for as long as `watch` says, in the order of the places.

    `AT_ONCE` of them watch at the same time, and the next when one of these has answered.
    """
    wait = Duration().convert(watch, None, None) + _PATIENCE
    with ThreadPoolExecutor(min(max(len(places), 1), AT_ONCE)) as threads:
        yield from threads.map(lambda place, words: _ask(kubectl, place, words, wait), places, commands)


def _ask(kubectl: Kubectl, place: Target, words: Sequence[str], wait: float) -> Answer:
    try:
        ran = kubectl.run_in(place.exporter, [*words, "--output=json"], wait=wait)
    except KubectlError as error:
        return Answer(place, {}, f"node {place.node}: {error}")
    try:
        found = json.loads(ran.output)
    except (ValueError, RecursionError):
        lines = [line for line in ran.errors.splitlines() if line.strip()]
        said = lines[-1].removeprefix("Error: ") if lines else f"its answer is no JSON (exit code {ran.code})"
        return Answer(place, {}, f"node {place.node}: {said}")
    if not isinstance(found, dict):
        return Answer(place, {}, f"node {place.node}: {UNREADABLE}")
    return Answer(place, found)
