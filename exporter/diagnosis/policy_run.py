"""Runs one policy program of the node on a packet, and names the rules on the packet's way.

Pure functions of a snapshot's parts. `trace.py` decides which programs a packet meets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from exporter.calico.policy_comments import parse_instructions
from exporter.calico.policy_debug import PROFILE, PolicyFileName, PolicyProgram, RulePosition
from exporter.calico.policy_file import Instruction, PolicyFile
from exporter.calico.policy_machine import MAX_RULE_IDS, MAX_STEPS, Result, run
from exporter.calico.policy_path import Visited, in_words, visited
from exporter.calico.policy_program import NotKnown, Program, program_of
from exporter.calico.program_tag import program_tags
from exporter.calico.rule_text import match_of
from exporter.calico.rules import NO_PROFILE_MATCH, RuleHits
from exporter.snapshot.rules import END_OF_TIER, NO_PROFILE, TIER, RuleOwners


@dataclass(frozen=True, slots=True)
class Step:
    """A rule, a tier's end or a missing profile match on the packet's way.

    `rule` is the position in its policy, `end_of_tier` or `no_profile_match`. `matched` is whether the packet matched;
    otherwise `why` is the criterion that did not hold. `hits` are all hits so far on this node, None if not counted.
    """

    kind: str
    policy_namespace: str
    policy: str
    tier: str
    rule: str
    action: str
    match: str
    hits: int | None
    matched: bool
    why: str
    phase: str


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """What a program does with a packet: `allow`, `deny` or `no_match`, and the rules on the way, in order.

    `rule_ids` are those that the program records; `truncated` is whether it recorded no more for want of space.
    """

    verdict: str
    rule_ids: tuple[int, ...]
    truncated: bool
    way: tuple[Step, ...]
    steps: int

    @property
    def decided_by(self) -> Step | None:
        """The rule that decided, None where no rule did."""
        return next((one for one in reversed(self.way) if one.matched), None)


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A policy debug file, parsed in full."""

    parsed: PolicyProgram
    instructions: tuple[Instruction, ...]
    program: Program

    def is_program(self, tags: Sequence[str]) -> bool:
        """Whether these are the tags of its parts."""
        starts = [*self.program.parts, len(self.instructions)]
        parts = [self.instructions[start:end] for start, end in pairwise(starts)]
        return len(parts) == len(tags) and all(
            tag in program_tags([one.code for one in part]) for tag, part in zip(tags, parts, strict=True)
        )


def load_file(about: PolicyFileName, content: bytes) -> LoadedFile:
    """The file with this content. Raises `PolicyDebugError` or `NotKnown`."""
    file = PolicyFile(content)
    instructions = tuple(file.instructions())
    parsed = parse_instructions(about, file, instructions)
    if parsed.error or not instructions:
        raise NotKnown(f"Calico could not load this program: {parsed.error or 'its file has no instructions'}")
    return LoadedFile(parsed, instructions, program_of(instructions, xdp=about.direction == "xdp"))


def run_policy(
    file: LoadedFile,
    states: Sequence[Mapping[str, bytes]],
    doubt: str,
    in_ip_set: Callable[[bytes], bool],
    owners: RuleOwners,
    hits: RuleHits | None,
    max_steps: int = MAX_STEPS,
) -> PolicyRun:
    """Runs the program on a packet. Where its state is not certain, `states` are all that are possible, and `doubt` is
    what would tell.

    Raises `NotKnown`, also when they do not end the same way.
    """
    results = [run(file.program, state, in_ip_set, max_steps) for state in states]
    if len({(one.verdict, one.rule_ids) for one in results}) > 1:
        raise NotKnown(f"its verdict depends on {doubt}")
    result: Result = results[0]
    found = visited(file.instructions, result.path, xdp=file.program.xdp)
    way = tuple(_step(file.parsed, one, result.verdict if one is found[-1] else "", owners, hits) for one in found)
    matched = sum(step.matched for step in way)
    return PolicyRun(result.verdict, result.rule_ids, matched > MAX_RULE_IDS, way, len(result.path))


def _step(parsed: PolicyProgram, one: Visited, decided: str, owners: RuleOwners, hits: RuleHits | None) -> Step:
    """`decided` is the program's verdict for the last one on the way, else empty."""
    matched = one.id is not None
    counted = None if hits is None or parsed.about.direction == "xdp" else hits
    place = one.place
    if place is None or place.rule < 0:
        return _end(parsed, place, one, decided, counted)
    tier = parsed.tiers[place.tier]
    policy = tier.policies[place.policy]
    rule = policy.rules[place.rule]
    name = owners.policy_name(parsed, tier, policy, rule)
    return Step(
        name.kind,
        name.namespace,
        name.name,
        tier.name,
        str(rule.position),
        rule.action,
        match_of(rule.text).words,
        counted.get(rule.id, 0) if counted is not None and rule.id else None,
        matched,
        "" if matched else in_words(one.why),
        one.phase,
    )


def _end(parsed: PolicyProgram, place: RulePosition | None, one: Visited, decided: str, hits: RuleHits | None) -> Step:
    number = one.id or NO_PROFILE_MATCH
    counted = hits.get(number, 0) if hits is not None else None
    matched = one.id is not None
    # A tier without code has its comments on what follows: from v3.30 on, when comments have actions, id 0 is no end's.
    if place is None or (number == NO_PROFILE_MATCH and parsed.tiers[place.tier].end_action):
        match = "what no profile matched"
        return Step(PROFILE, "", "", "", NO_PROFILE, "deny", match, counted, matched, "", one.phase)
    tier = parsed.tiers[place.tier]
    return Step(
        TIER,
        "",
        "",
        tier.name,
        END_OF_TIER,
        tier.end_action or ("deny" if decided == "deny" else "pass"),
        "what no rule of the tier matched",
        counted if number else None,  # before v3.30 ends of tiers share id 0
        matched,
        "",
        one.phase,
    )
