"""Queries exporters for JSON in parallel and checks that this plugin can read the responses."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from exporter.kubectl.kubectl import Finished, Kubectl, KubectlError
from exporter.kubectl.targets import Target
from exporter.quantities import Duration

UNREADABLE = "its response cannot be read: is that exporter of another version?"
# Round trip, in addition to the time that is watched: a hanging node must not hold back the others' numbers.
_MARGIN = 30.0
_Reduced = TypeVar("_Reduced")


@dataclass(frozen=True, slots=True)
class Answer:
    """The exporter's response: an object, or one sentence that says why there is none."""

    target: Target
    found: dict[str, Any]
    problem: str = ""


def query_all(
    kubectl: Kubectl,
    commands: Sequence[tuple[Target, Sequence[str]]],
    watch: str,
    reduce: Callable[[Answer], _Reduced],
    parallel: int = 16,
) -> Iterator[_Reduced]:
    """What `reduce` makes of the answers to these commands, each of which watches for `watch`, in their order.

    At most `parallel` kubectl run at the same time, and one answer is parsed and reduced: all of them together, of
    nodes that want to do harm, would not fit into the memory.
    """
    wait = Duration().convert(watch, None, None) + _MARGIN
    parsing = Lock()

    def query(command: tuple[Target, Sequence[str]]) -> _Reduced:
        target, words = command
        try:
            ran = kubectl.run_in(target.exporter, [*words, "--output=json"], wait=wait)
        except KubectlError as error:
            return reduce(Answer(target, {}, f"node {target.node}: {error}"))
        with parsing:
            return reduce(_parsed(target, ran))

    with ThreadPoolExecutor(parallel) as threads:
        yield from threads.map(query, commands)


def _parsed(target: Target, ran: Finished) -> Answer:
    try:
        found = json.loads(ran.output)
    except (ValueError, RecursionError):
        lines = [line for line in ran.errors.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("Error: ") if lines else f"its response is not JSON (exit code {ran.code})"
        return Answer(target, {}, f"node {target.node}: {reason}")
    if not isinstance(found, dict):
        return Answer(target, {}, f"node {target.node}: {UNREADABLE}")
    return Answer(target, found)
