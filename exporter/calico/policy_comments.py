"""Parses the comments of a policy debug file, which carry the policy's structure.

Felix writes them with the code that they are about (`AddComment*` in felix/bpf/polprog/pol_prog_builder.go). Read as
one stream: the comments of a rule without code are on the next instruction. The content shows the release: v3.32 added
the kind to `Start of <kind> <name> <n>` and the policy to `Start of rule`, v3.30 the action to `End of tier`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from exporter.calico.policy_debug import (
    FORWARD,
    NORMAL,
    PRE_DNAT,
    PROFILE,
    Policy,
    PolicyFileName,
    PolicyProgram,
    Rule,
    RulePosition,
    Tier,
)
from exporter.calico.policy_file import Instruction, PolicyFile

# R1 = state->flags; R1 &= from or to this host; if R1 != 0 goto: what follows is for packets that are forwarded.
_FORWARDED = (b"\x79\x91", b"\x57\x01", b"\x55\x01")
NORMAL_LABEL = "to_or_from_host"
_OLD_RULE = re.compile(r"\w+:")
_ACTIONS = {"": "allow", "next-tier": "pass"}
_ACTION = re.compile(r'\baction: *"([^"]*)"')
# The label of the first instruction after the host endpoints' policy, which a pod's program contains too.
END_OF_HOST_POLICY = "allowed_by_host_policy"
_NEXT_PARTS = (NORMAL_LABEL, END_OF_HOST_POLICY)
_GOES_ON = b"\xb7\x00"  # R0 = n, where a split program goes on
_MAX_ID = 22  # a blank and the 20 digits of 2**64 - 1
_NAMED_PORTS = re.compile(r" named ports \{([^{}]+)\}")
_SET_NUMBER_SIZE = 8
LOADS_ID = b"\x18\x02"  # R2 = a number of 64 bits, whose other half is in the next instruction; 0x12 would be a map


def parse_policy_file(about: PolicyFileName, content: bytes) -> PolicyProgram:
    """The file with this content. Raises `PolicyDebugError` unless it is complete."""
    file = PolicyFile(content)
    return parse_instructions(about, file, file.instructions())


def parse_instructions(about: PolicyFileName, file: PolicyFile, instructions: Iterable[Instruction]) -> PolicyProgram:
    """The program with these instructions, which are those of the file."""
    parser = _Parser()
    for instruction in instructions:
        parser.take(instruction)
    return PolicyProgram(about, file.text("hook"), file.text("error"), parser.tiers(), parser.counts_zero)


def places_of(instructions: Iterable[Instruction]) -> list[RulePosition | None]:
    """The rule of each instruction; None before, after and between rules: a missing profile match is the last."""
    parser, places = _Parser(), []
    for instruction in instructions:
        parser.take(instruction)
        places.append(parser.place)
    return places


def _begins(label: str, instruction: Instruction) -> bool:
    """Whether the label's code begins here: stepping stones of long jumps and ends of split programs have it too."""
    if label not in instruction.labels:
        return False
    return instruction.code[:2] != _GOES_ON and instruction.annotation != f"goto {label}"


@dataclass(slots=True)
class _OpenRule:
    """A rule whose comments are still being read."""

    position: int
    action: str
    text: str
    id: int = 0
    ip_sets: list[str] = field(default_factory=list)

    def whole(self) -> Rule:
        return Rule(self.position, self.action, self.id, self.text, tuple(self.ip_sets))


@dataclass(slots=True)
class _Parser:
    """The state between two instructions: what has started and not yet ended."""

    done: list[Tier] = field(default_factory=list)
    tier: str | None = None
    policies: list[Policy] = field(default_factory=list)
    policy: tuple[str, str] | None = None  # kind and name
    rules: list[_OpenRule] = field(default_factory=list)
    in_host_policy: bool = True
    of_host: bool = True  # whether the open tier began in host policy
    ending: bool = False  # between `End of tier` and the next comment that begins or ends something
    low: int | None = None  # the first half of an id being loaded
    ended: int = 0  # tiers
    counts_zero: bool = False
    place: RulePosition | None = None
    phase: str = PRE_DNAT
    tier_phase: str = PRE_DNAT  # of the open tier
    codes: tuple[bytes, ...] = ()  # how the last three instructions begin
    named_ports: list[str] = field(default_factory=list)  # sets whose numbers come in the next instructions
    half: bytes = b""  # the first half of one

    def take(self, instruction: Instruction) -> None:
        if _begins(END_OF_HOST_POLICY, instruction):
            self._end_host_policy()
        if _begins(NORMAL_LABEL, instruction):
            self.phase = NORMAL
        for comment in instruction.comments:
            self._take_comment(comment)
        self._leave_tier(instruction)
        self.codes = (*self.codes[-2:], instruction.code[:2])
        if self.codes == _FORWARDED and self.phase == PRE_DNAT:
            self.phase = FORWARD
        self._find_id(instruction.code)
        self._find_named_port(instruction.code)

    def tiers(self) -> tuple[Tier, ...]:
        self._end_profiles()
        return tuple(self.done)

    def _end_host_policy(self) -> None:
        self._end_profiles()
        self.done = [replace(tier, before_workload=True) for tier in self.done]
        self.in_host_policy = False
        self.of_host = True

    def _take_comment(self, comment: str) -> None:
        word, _, rest = comment.partition(" ")
        if word == "Rule":
            self._identify(rest)
        elif word in ("IPSets", "If", "Match:"):
            self._note_ip_sets(word, comment)
        elif comment.startswith("Start of "):
            self.ending, self.named_ports = False, []
            self._start(comment[len("Start of ") :])
        elif comment.startswith("End of "):
            self.ending, self.named_ports = False, []
            self._end(comment[len("End of ") :])

    def _start(self, what: str) -> None:
        word, _, rest = what.partition(" ")
        self.place = None
        if word == "rule":
            self._start_rule(rest)
        elif word == "tier":
            self._end_profiles()
            self.tier, self.of_host, self.tier_phase = rest, self.in_host_policy, self.phase
        else:
            self._end_profiles()
            self.policy = ("", rest) if word == "policy" else (word, rest.rpartition(" ")[0].strip())

    def _start_rule(self, text: str) -> None:
        name = self.policy[1] if self.policy else ""
        if not _OLD_RULE.match(text):
            name = name if name and text.startswith(f"{name} ") else text.partition(" ")[0]
            text = text[len(name) + 1 :]
        if self.policy is None or (self.policy[0] == PROFILE and self.policy[1] != name):
            self._end_policy()
            self.policy, self.of_host = (PROFILE, name), self.in_host_policy
        action = _ACTION.search(text)
        word = action[1].lower() if action else ""
        self.place = RulePosition(len(self.done), len(self.policies), len(self.rules))
        self.rules.append(_OpenRule(len(self.rules), _ACTIONS.get(word, word), text.strip()))

    def _end(self, what: str) -> None:
        word, _, rest = what.partition(" ")
        self.place = None
        if word == "tier":
            self._end_tier(rest)
        elif word != "rule":
            self._end_policy()

    def _end_policy(self) -> None:
        if self.policy is not None:
            self.policies.append(Policy(*self.policy, tuple(rule.whole() for rule in self.rules)))
        self.policy, self.rules = None, []

    def _end_tier(self, rest: str) -> None:
        self._end_policy()
        # The name is known from its start: the action follows it, from v3.30 on.
        name = self.tier if self.tier is not None and rest.startswith(self.tier) else rest.rpartition(": ")[0] or rest
        colon, action = rest[len(name) :][:2], rest[len(name) + 2 :]
        action = (action or "deny") if colon == ": " else ""  # deny is the default
        self.done.append(Tier(name, tuple(self.policies), action, 0, self.of_host, self.tier_phase))
        self.place = RulePosition(len(self.done) - 1)
        self.tier, self.policies = None, []
        self.ending = True
        self.ended += 1

    def _leave_tier(self, instruction: Instruction) -> None:
        """What follows a tier's end without a comment belongs to nothing: that no profile matched, for one."""
        if self.place is None or self.place.rule >= 0:
            return
        after = [f"end_of_tier_{self.ended - 1}"]
        if not any(one.startswith("Start of tier ") for one in instruction.comments):
            after += _NEXT_PARTS
        if any(_begins(label, instruction) for label in after):
            self.place, self.ending = None, False

    def _end_profiles(self) -> None:
        """Profiles have no end comment: they end where something else starts."""
        self._end_policy()
        if self.policies and self.tier is None:
            self.done.append(Tier("", tuple(self.policies), before_workload=self.of_host, host_phase=self.phase))
            self.policies = []

    def _identify(self, rest: str) -> None:
        label, _, number = rest.partition(":")
        if label == "MatchID" and self.rules and number.strip().isascii() and number.strip().isdigit():
            known = int(number) if len(number) < _MAX_ID else 0
            self.rules[-1].id = known if known < 1 << 64 else 0

    def _note_ip_sets(self, word: str, comment: str) -> None:
        if self.rules and "0x" in comment and (word != "If" or " ipset " in comment):
            self.rules[-1].ip_sets.append(comment)
        named = _NAMED_PORTS.search(comment) if self.rules else None
        self.named_ports = named[1].replace(",", " ").split() if named else []
        self.half = b""

    def _find_named_port(self, code: bytes) -> None:
        """Finds the numbers of named ports' sets, which no comment has: their code puts both halves into keys."""
        if not self.named_ports or code[:2] != b"\xb4\x01":  # R1 = a number of 32 bits
            return
        whole, self.half = self.half + code[4:], code[4:]
        if len(whole) == _SET_NUMBER_SIZE:
            self.rules[-1].ip_sets.append(f"named ports ipset {self.named_ports.pop(0)} (0x{whole.hex()})")
            self.half = b""

    def _find_id(self, code: bytes) -> None:
        """Finds the id of a tier's end, which no comment has: its code loads it into R2."""
        if self.low is not None:
            loaded = self.low | int.from_bytes(code[4:], "little") << 32
            self.counts_zero |= loaded == 0
            if self.ending:
                self.done[-1] = replace(self.done[-1], end_id=loaded)
            self.ending, self.low = False, None
        elif code[:2] == LOADS_ID:
            self.low = int.from_bytes(code[4:], "little")
