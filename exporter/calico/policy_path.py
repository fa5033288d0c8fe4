"""The rules on a packet's way through a policy program: which matched, and why the others did not.

Joins the path of `policy_machine.py` with the comments of the file: a rule that matches goes on to the code that
records its id, any other leaves at a criterion, which a comment before it describes
(felix/bpf/polprog/pol_prog_builder.go, `writeRule` and `writeRecordRuleID`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from exporter.calico.policy_comments import END_OF_HOST_POLICY, LOADS_ID, NORMAL_LABEL, places_of
from exporter.calico.policy_debug import FORWARD, NORMAL, PRE_DNAT, UNTRACKED, WORKLOAD, RulePosition
from exporter.calico.policy_file import Instruction

_RECORDS, _LOGS = "state->rules_hit */", "/* state->flags */ = R1"
_SPLIT = re.compile(r"Splitting program after ")
_ENDS = frozenset({"deny", "exit", "allow", "xdp_pass", "next-program"})
# R0 = state->pol_rc; R1 = 0; state->pol_rc = R1; then for each place to go on: if R0 == n goto it.
_RESUMES = (b"\x61\x90", b"\xb4\x01", b"\x63\x19", b"\x15\x00")
_ALWAYS = 0x05
_ENDS_MATCH = re.compile(r", (?:skip|jump) to next (?:rule|ipset)$")
_SET = re.compile(r"(doesn't match|matches|doesn't match any of) (?:ipset \S+ \(0x[0-9a-f]+\)|the IP sets)")
_NO_NAMED_PORTS = "named ports {}"
_UNNAMED_PROTOCOL = ("protocol !=", "protocol ==")  # Felix has a name for few numbers
_WORDS = {
    "destPreNAT": "destination before service translation",
    "dest": "destination",
    "doesn't match": "is not in the IP set",
    "matches": "is in the IP set",
    "doesn't match any of": "is in none of the IP sets",
}


@dataclass(frozen=True, slots=True)
class Visited:
    """A rule or a tier's end that the packet came to; without a place, that no profile matched.

    `id` is what it records, None where it did not match; `why` is then the criterion that did not hold. A rule that
    only logs has neither when it matches.
    """

    place: RulePosition | None
    id: int | None
    why: str
    phase: str


def visited(instructions: Sequence[Instruction], path: Sequence[int], *, xdp: bool) -> list[Visited]:
    """The rules on this path, in order. The last one with an id decided."""
    places, criteria, phases = _places(instructions), _criteria(instructions), _Phases(instructions, xdp=xdp)
    starts: dict[RulePosition | None, int] = {}
    for index, place in enumerate(places):
        starts.setdefault(place, index)
    found: list[Visited] = []
    for place, group in groupby(path, key=places.__getitem__):
        steps = list(group)
        matching = next((one for one in steps if _is_record(instructions[one])), None)
        resumed = bool(found) and found[-1].place == place and found[-1].id is None
        # Felix puts stepping stones of long jumps between the instructions of other rules.
        if (matching is None) if place is None else (steps[0] != starts[place] and not resumed):
            continue
        if place is not None and place.rule < 0 and matching is None:
            continue  # a tier's end without code has its comment on what follows
        if resumed and place is not None:
            found.pop()
        rule_id = None if matching is None else _id_after(instructions, matching)
        logs = any(instructions[one].annotation.endswith(_LOGS) for one in steps)
        why = "" if matching is not None or logs else criteria[steps[-1]]
        found.append(Visited(place, rule_id, why, phases.of(steps[0] if matching is None else matching)))
    return found


def _places(instructions: Sequence[Instruction]) -> list[RulePosition | None]:
    """The rule of each instruction; None also for what stands within a rule where Felix split the program in two.

    That is the end of the first, with its verdicts, and the start of the second, which jumps to where it goes on.
    """
    found, inside, resuming = places_of(instructions), True, False
    for index, one in enumerate(instructions):
        inside = inside or (resuming and one.code[:2] not in _RESUMES)
        ends = not _ENDS.isdisjoint(one.labels) and one.code[0] != _ALWAYS  # else it is a stepping stone
        if ends or any(map(_SPLIT.match, one.comments)):
            inside = resuming = False
        resuming = resuming or "policy" in one.labels
        if not inside:
            found[index] = None
    return found


def _is_record(instruction: Instruction) -> bool:
    return instruction.annotation.startswith("R1 = ") and instruction.annotation.endswith(_RECORDS)


def _id_after(instructions: Sequence[Instruction], start: int) -> int:
    """The id that the code from `start` on records, even if it does not fit."""
    for index in range(start, len(instructions) - 1):
        if instructions[index].code[:2] == LOADS_ID:
            low, high = (instructions[one].code[4:] for one in (index, index + 1))
            return int.from_bytes(low + high, "little")
    return 0


def _criteria(instructions: Sequence[Instruction]) -> list[str]:
    """What is checked at each instruction, in words; empty where no comment says it."""
    found, current = [], ""
    for instruction in instructions:
        for comment in instruction.comments:
            if comment.startswith(("Start of ", "End of ")):
                current = ""
            elif comment.startswith("If ") and not (current and _NO_NAMED_PORTS in comment):
                current = comment
        found.append(current)
    return found


def in_words(criterion: str) -> str:
    """A comment such as `If dest not in {10.0.0.0/8}, skip to next rule` as what was found."""
    text = _ENDS_MATCH.sub("", criterion.removeprefix("If "))
    if text.strip() in _UNNAMED_PROTOCOL:
        return "the protocol does not match"
    text = _SET.sub(lambda found: _WORDS[found[1]], text)
    word, _, rest = text.partition(" ")
    return f"{_WORDS.get(word, word)} {rest}".rstrip()


class _Phases:
    """The parts of a program, which follow each other: what a host endpoint's policy is for, then the workload's."""

    def __init__(self, instructions: Sequence[Instruction], *, xdp: bool) -> None:
        self._xdp = xdp
        labels = {label: index for index, one in enumerate(instructions) for label in one.labels}
        after = len(instructions)
        self._workload = labels.get(END_OF_HOST_POLICY, after)  # absent where nothing leads there
        self._normal = labels.get(NORMAL_LABEL, self._workload)
        host = (index for index in self._flag_loads(instructions) if index < self._normal)
        self._forward = next(host, after)

    @staticmethod
    def _flag_loads(instructions: Sequence[Instruction]) -> Iterator[int]:
        # Followed by AND with the two bits; a rule of action log loads the flags too.
        for index, one in enumerate(instructions[:-1]):
            if one.annotation.endswith("state->flags */") and instructions[index + 1].code[0] == 0x57:
                yield index

    def of(self, index: int) -> str:
        """The phase of this instruction."""
        if self._xdp:
            return UNTRACKED
        if index >= self._workload:
            return WORKLOAD
        if index >= self._normal:
            return NORMAL
        return FORWARD if index >= self._forward else PRE_DNAT
