"""Policy debug files: what each interface's policy program does, as Felix writes it down for people.

`<run dir>/bpf/policy/<interface>_<ingress|egress|xdp>_v<4|6>.json` holds the program's instructions with comments
(`bpf.PolicyDebugInfo`, `writePolicyDebugInfo` in felix/dataplane/linux/bpf_ep_mgr.go), and the comments carry the
structure (felix/bpf/polprog/pol_prog_builder.go, `AddComment*`). Read as one stream: a rule without code leaves its
comments on the next instruction. What differs between releases is told by what is there: v3.32 added the kind to
`Start of <kind> <name> <n>` and the policy to `Start of rule`, v3.30 the action to `End of tier`.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

# A recorded file has 2 kB for each rule: this is room for 7000 rules on one interface.
LARGEST = 16 << 20
FOLDER = "bpf/policy"

_FILE_NAME = re.compile(r"(?P<interface>.+)_(?P<direction>ingress|egress|xdp)_v(?P<family>[46])\.json", re.DOTALL)
_OLD_RULE = re.compile(r"\w+:")
_ACTIONS = {"": "allow", "next-tier": "pass"}
_END_ACTIONS = ("deny", "pass", "")  # not said is deny
_ACTION = re.compile(r'\baction: *"([^"]*)"')
_SPACE = re.compile(r"[ \t\r\n]*")
# The label of the first instruction after all policy of host endpoints, which a pod's program carries too.
_END_OF_HOST_POLICY = "allowed_by_host_policy"
_LONGEST_ID = 22  # a blank and the 20 digits of 2**64 - 1
_DECODER = json.JSONDecoder()


class PolicyDebugError(Exception):
    """A file that is cut off, still being written, or no policy debug file. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class PolicyFileName:
    """What the name says: the interface, the policy's direction `ingress`, `egress` or `xdp`, and IP family 4 or 6.

    Ingress policy is what comes to the endpoint, whatever hook enforces it.
    """

    interface: str
    direction: str
    family: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One BPF instruction of 8 bytes and what Felix noted on it."""

    code: bytes
    labels: tuple[str, ...]
    comments: tuple[str, ...]
    annotation: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its place in its policy from 0, `allow`, `deny`, `pass` or `log`, its id, and its text as Felix wrote it.

    `id` is the key of its counter and 0 where it has none. `ip_sets` are the comments that give the numbers of its IP
    sets.
    """

    position: int
    action: str
    id: int
    text: str
    ip_sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy's rules of one direction. `kind` is empty where the file has none; `name` is as it stands there.

    A profile has the kind `Profile`, and no name before v3.32. A staged policy leaves both empty.
    """

    kind: str
    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier's policies and its end; profiles stand in one without a name.

    `end_action` is `deny` or `pass`, empty before v3.30; `end_id` is the key of the end's counter, 0 where the program
    has no code for it or it has no id of its own. `before_workload` says that it stands before the instruction where
    a workload's own policy begins: in a pod's file, it is a host endpoint's then.
    """

    name: str
    policies: tuple[Policy, ...]
    end_action: str = ""
    end_id: int = 0
    before_workload: bool = False


@dataclass(frozen=True, slots=True)
class PolicyProgram:
    """A parsed file. `hook` is as Felix wrote it (`tc egress`), `error` why the program could not be loaded.

    `counts_zero` says that it has code which counts under id 0: from v3.30 on, for packets that no profile matched.
    """

    about: PolicyFileName
    hook: str
    error: str
    tiers: tuple[Tier, ...]
    counts_zero: bool = False


def parse_file_name(name: str) -> PolicyFileName | None:
    """What the name of a policy debug file says; None for another file."""
    match = _FILE_NAME.fullmatch(name)
    return PolicyFileName(match["interface"], match["direction"], int(match["family"])) if match else None


def parse_policy_file(about: PolicyFileName, content: bytes) -> PolicyProgram:
    """The file with this content. Raises `PolicyDebugError` unless it is whole."""
    fields, reading = _File(content), _Reading()
    for instruction in fields.instructions():
        reading.take(instruction)
    return PolicyProgram(about, fields.text("hook"), fields.text("error"), reading.tiers(), reading.counts_zero)


def read_instructions(content: bytes) -> Iterator[Instruction]:
    """The instructions of a file with this content, one by one. Raises `PolicyDebugError` where it is not whole."""
    return _File(content).instructions()


class _File:
    """The JSON object of a file, taken apart an instruction at a time: as one value it would need twelve times its size
    in memory.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content.decode("utf-8", "replace")
        self._place = 0
        self._fields: dict[str, Any] = {}

    def instructions(self) -> Iterator[Instruction]:
        self._expect("{")
        while not self._skip("}"):
            key = self._value()
            self._expect(":")
            if key == "policyInfo" and self._skip("["):
                yield from self._elements()
            else:
                self._fields[str(key)] = self._value()
            if not self._skip(","):
                self._expect("}")
                break
        self._place = self._after_space()
        if self._place != len(self._content):
            raise PolicyDebugError("something follows its end")

    def text(self, key: str) -> str:
        """The text field `key`, empty where there is none; only after the instructions."""
        value = self._fields.get(key) or ""
        if not isinstance(value, str):
            raise PolicyDebugError(f"its field {key} is no text")
        return value

    def _elements(self) -> Iterator[Instruction]:
        if self._skip("]"):
            return
        while True:
            yield _instruction(self._value())
            if not self._skip(","):
                break
        self._expect("]")

    def _value(self) -> Any:  # JSON
        try:
            value, self._place = _DECODER.raw_decode(self._content, self._after_space())
        except (ValueError, RecursionError) as error:
            raise PolicyDebugError("it is cut off, still being written or not JSON") from error
        return value

    def _after_space(self) -> int:
        match = _SPACE.match(self._content, self._place)
        return match.end() if match else self._place

    def _skip(self, mark: str) -> bool:
        place = self._after_space()
        found = self._content.startswith(mark, place)
        self._place = place + found
        return found

    def _expect(self, mark: str) -> None:
        if not self._skip(mark):
            raise PolicyDebugError("it is cut off, still being written or not JSON")


def _instruction(element: Any) -> Instruction:  # JSON
    if not isinstance(element, dict):
        raise PolicyDebugError("one of its instructions is no object")
    try:
        inst = element["inst"]
        code = base64.b64decode(inst, validate=True) if isinstance(inst, str) else bytes(inst)
        labels, comments = tuple(element.get("labels") or ()), tuple(element.get("comments") or ())
        annotation = element.get("annotation") or ""
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyDebugError("one of its instructions has not the shape of one") from error
    if len(code) != 8 or not all(isinstance(one, str) for one in (*labels, *comments, annotation)):
        raise PolicyDebugError("one of its instructions has not the shape of one")
    return Instruction(code, labels, tuple(map(_writable, comments)), annotation)


def _writable(text: str) -> str:
    # JSON can spell half a character, which no output can carry: it appears as its escape.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


@dataclass(slots=True)
class _Reading:
    """The state between two instructions: what has begun and not yet ended."""

    done: list[Tier] = field(default_factory=list)
    tier: str | None = None
    policies: list[Policy] = field(default_factory=list)
    policy: tuple[str, str] | None = None  # kind and name
    rules: list[Rule] = field(default_factory=list)
    in_host_policy: bool = True
    of_host: bool = True  # whether the open tier began in host policy
    ending: bool = False  # between `End of tier` and the next comment that begins or ends something
    low: int | None = None  # the first half of an id being loaded
    counts_zero: bool = False

    def take(self, instruction: Instruction) -> None:
        if _END_OF_HOST_POLICY in instruction.labels:
            self._end_host_policy()
        for comment in instruction.comments:
            self._take_comment(comment)
        self._look_for_id(instruction.code)

    def _end_host_policy(self) -> None:
        # Where Felix split the program in the middle of host policy, its first part ends with this label too.
        self.done = [replace(tier, before_workload=True) for tier in self.done]
        self.in_host_policy = False
        self.of_host = True

    def tiers(self) -> tuple[Tier, ...]:
        self._end_profiles()
        return tuple(self.done)

    def _take_comment(self, comment: str) -> None:
        word, _, rest = comment.partition(" ")
        if word == "Rule":
            self._identify(rest)
        elif word in ("IPSets", "If", "Match:"):
            self._note_ip_sets(word, comment)
        elif comment.startswith("Start of "):
            self.ending = False
            self._start(comment[len("Start of ") :])
        elif comment.startswith("End of "):
            self.ending = False
            self._end(comment[len("End of ") :])

    def _start(self, what: str) -> None:
        word, _, rest = what.partition(" ")
        if word == "tier":
            self._end_profiles()
            self.tier, self.of_host = rest, self.in_host_policy
        elif word == "rule":
            self._start_rule(rest)
        else:
            self.policy = ("", rest) if word == "policy" else (word, rest.rpartition(" ")[0].strip())

    def _start_rule(self, text: str) -> None:
        name = ""
        if not _OLD_RULE.match(text):
            name, _, text = text.partition(" ")
        if self.policy is None:
            self._start_profile_rule(name)
        action = _ACTION.search(text)
        word = action[1].lower() if action else ""
        self.rules.append(Rule(len(self.rules), _ACTIONS.get(word, word), 0, text.strip()))

    def _start_profile_rule(self, name: str) -> None:
        if self.of_host != self.in_host_policy:
            self._end_profiles()  # those of a host endpoint end where the workload's begin
        if self.policies and self.policies[-1].name == name:
            self.rules = list(self.policies.pop().rules)
        self.of_host = self.in_host_policy
        self.policy = ("Profile", name)

    def _end(self, what: str) -> None:
        word, _, rest = what.partition(" ")
        if word == "tier":
            name, colon, action = rest.rpartition(": ")
            self._end_tier(*((name, action or "deny") if colon and action in _END_ACTIONS else (rest, "")))
        elif word == "rule":
            if self.policy and self.policy[0] == "Profile":
                self._end_policy()
        else:
            self._end_policy()

    def _end_policy(self) -> None:
        kind, name = self.policy or ("", "")
        self.policies.append(Policy(kind, name, tuple(self.rules)))
        self.policy, self.rules = None, []

    def _end_tier(self, name: str, action: str) -> None:
        self.done.append(Tier(name, tuple(self.policies), action, 0, self.of_host))
        self.tier, self.policies = None, []
        self.ending = True

    def _end_profiles(self) -> None:
        if self.policies:
            self.done.append(Tier("", tuple(self.policies), before_workload=self.of_host))
        self.policies = []

    def _identify(self, rest: str) -> None:
        label, _, number = rest.partition(":")
        if label == "MatchID" and self.rules and number.strip().isascii() and number.strip().isdigit():
            known = int(number) if len(number) < _LONGEST_ID else 0
            self.rules[-1] = replace(self.rules[-1], id=known if known < 1 << 64 else 0)

    def _note_ip_sets(self, word: str, comment: str) -> None:
        if self.rules and "0x" in comment and (word != "If" or " ipset " in comment):
            self.rules[-1] = replace(self.rules[-1], ip_sets=(*self.rules[-1].ip_sets, comment))

    def _look_for_id(self, code: bytes) -> None:
        """The end of a tier has no comment with its id: it is the number that its code loads into R2."""
        if self.low is not None:
            loaded = self.low | int.from_bytes(code[4:], "little") << 32
            self.counts_zero |= loaded == 0
            if self.ending:
                self.done[-1] = replace(self.done[-1], end_id=loaded)
            self.ending, self.low = False, None
        elif code[:2] == b"\x18\x02":  # ld_imm64 of a plain number; 0x12 there would be a map
            self.low = int.from_bytes(code[4:], "little")
