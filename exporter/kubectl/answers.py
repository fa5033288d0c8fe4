"""Queries exporters for JSON in parallel and checks that this plugin can read the responses."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Target
from exporter.quantities import Duration

UNREADABLE = "its response cannot be read: is that exporter of another version?"
# Each is a kubectl process: a laptop can run this many.
MAX_PARALLEL = 64
# Round trip, in addition to the time that is watched: a hanging node must not hold back the others' numbers.
_MARGIN = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The exporter's response: an object, or one sentence that says why there is none."""

    target: Target
    found: dict[str, Any]
    problem: str = ""


def query_all(
    kubectl: Kubectl, targets: Sequence[Target], commands: Sequence[Sequence[str]], watch: str
) -> Iterator[Answer]:
    """The answers to one command per target, each of which watches for `watch`, in the order of the targets.

    At most `MAX_PARALLEL` run at the same time.
    """
    wait = Duration().convert(watch, None, None) + _MARGIN
    with ThreadPoolExecutor(min(max(len(targets), 1), MAX_PARALLEL)) as threads:
        yield from threads.map(lambda target, words: _query(kubectl, target, words, wait), targets, commands)


def _query(kubectl: Kubectl, target: Target, words: Sequence[str], wait: float) -> Answer:
    try:
        ran = kubectl.run_in(target.exporter, [*words, "--output=json"], wait=wait)
    except KubectlError as error:
        return Answer(target, {}, f"node {target.node}: {error}")
    try:
        found = json.loads(ran.output)
    except (ValueError, RecursionError):
        lines = [line for line in ran.errors.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("Error: ") if lines else f"its response is not JSON (exit code {ran.code})"
        return Answer(target, {}, f"node {target.node}: {reason}")
    if not isinstance(found, dict):
        return Answer(target, {}, f"node {target.node}: {UNREADABLE}")
    return Answer(target, found)
