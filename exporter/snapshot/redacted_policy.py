"""Redacts policy debug files: the names, networks and selectors in their comments, and the networks in their code.

The code stays a program that decides as before, so `trace` works on it. It compares an address in parts of 4 bytes
(`writeCIDRSMatch` in felix/bpf/polprog/pol_prog_builder.go): a load into R1, a mask in R2, their conjunction, and a
jump that compares R2 with the network's part. It loads the ids of rules as numbers of 64 bits into R2. The numbers of
IP sets stay. A comment, label or annotation of no known form is left out or replaced: it could hold a name.
"""

import base64
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from exporter.calico.policy_comments import LOADS_ID, parse_policy_file
from exporter.calico.policy_debug import PolicyFileName
from exporter.calico.policy_file import Instruction, PolicyDebugError, PolicyFile
from exporter.calico.policy_program import PART_START
from exporter.calico.program_tag import program_tags
from exporter.calico.rule_text import unescaped
from exporter.snapshot.redacted_names import Names
from exporter.snapshot.redacted_rules import RuleIds

_CUT_OFF = b"{"  # of a file that cannot be parsed
_ADDRESS = re.compile(r"/\* state->(?:ip_src|(?:pre|post)_nat_ip_dst) \*/")
_LOAD = b"\x61\x91"
_BEFORE = (_LOAD, b"\xb4\x02", b"\x5c\x12")
_COMPARES = (b"\x16\x02", b"\x56\x02")
_BOUNDARY = re.compile(r"((?:Start|End) of )(\S*)( ?)(.*)", re.DOTALL)
_RULE_ID = re.compile(r"(Rule MatchID: *)([0-9]{1,20})")
_ACTION_OF_TIER = re.compile(r": \w+$")
_STRING = re.compile(r'(\w+)(:\s*)"((?:[^"\\]|\\.)*)"')
_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')
_FIELD = re.compile(r"\w+:")
_BARE = re.compile(r"(\w+)(:\s*)([^\s\"<>{}\[\],]+)")
_BARE_KEPT = re.compile(r"-?\d+|true|false|[A-Z][A-Z0-9_]*")  # numbers and enumerations
_HOOK = re.compile(r"(?:tc )?(?:ingress|egress|xdp)|tc")
_COMMENT = re.compile(
    r"(?:If (?:protocol|source|dest|destPreNAT|ICMP|not)|Match:|IPSets|Splitting program after|(?:Allow|Deny) jump to"
    r"|Tail call to policy program|Load packet metadata|Save state pointer|##### Start of program \d+) ?.*"
)
_LABEL_WORD = re.compile(
    r"\d+|rule|part|no|match|exit|start|policy|allow|allowed|by|host|deny|end|of|tier|to|or|from|next|program|xdp|pass"
)
_ANNOTATION = re.compile(
    r"|call bpf_\w+|(?:R\d+ = )?\*\(u\d+ \*\) ?\(R\d+ [+-] \d+\) /\* (?:(?:state|skb|ctx)->[\w\[\]]+)? ?\*/(?: = R\d+)?"
)
_PROTOCOLS = frozenset({"tcp", "udp", "icmp", "icmpv6", "sctp", "udplite"})


class PolicyFiles:
    """Redacts files one after another. `tags` are the new tags of their programs by the old ones."""

    def __init__(self, names: Names, rule_ids: RuleIds) -> None:
        self.tags: dict[str, str] = {}
        self._names = names
        self._rule_ids = rule_ids
        self._comments = Comments(names, rule_ids)

    def learn(self, about: PolicyFileName, content: bytes) -> None:
        """Notes the rules of a file; all files come here before the first is redacted."""
        with suppress(PolicyDebugError):
            self._rule_ids.learn(parse_policy_file(about, content))

    def redact(self, content: bytes, family: int) -> bytes:
        """The content of the redacted file; of one that cannot be parsed, one that cannot be parsed either."""
        file = PolicyFile(content)
        try:
            instructions = list(file.instructions())
            fields = {key: file.text(key) for key in ("ifacename", "hook", "error")}
            fields["hook"] = fields["hook"] if _HOOK.fullmatch(fields["hook"]) else ""
        except PolicyDebugError:
            return _CUT_OFF
        code = Code(self._names, self._rule_ids, 4 if family == 4 else 16).redact(instructions)
        self._note_tags(instructions, code)
        fields["ifacename"] = self._names.interface(fields["ifacename"])
        fields["error"] = self._names.sentence(fields["error"])
        whole = fields | {"policyInfo": [*map(self._row, instructions, code)]}
        return json.dumps(whole, separators=(",", ":")).encode()

    def _row(self, one: Instruction, code: bytes) -> dict[str, object]:
        row: dict[str, object] = {"inst": base64.b64encode(code).decode()}
        comments = [*filter(None, map(self._comments.redact, one.comments))]
        labels = [*map(self._label, one.labels)]
        more = {"labels": labels, "comments": comments, "annotation": self._annotation(one.annotation)}
        return row | {key: value for key, value in more.items() if value}

    def _label(self, label: str) -> str:
        known = all(map(_LABEL_WORD.fullmatch, re.split("[_-]", label)))
        return label if known else self._names.identifier(label)

    def _annotation(self, annotation: str) -> str:
        jump, _, label = annotation.partition("goto ")
        if label and not jump:
            return f"goto {self._label(label)}"
        return annotation if _ANNOTATION.fullmatch(annotation) else ""

    def _note_tags(self, instructions: Sequence[Instruction], code: Sequence[bytes]) -> None:
        starts = [number for number, one in enumerate(instructions) if any(map(PART_START.fullmatch, one.comments))]
        for start, end in pairwise([0, *starts, len(code)]):
            before = program_tags([one.code for one in instructions[start:end]])
            self.tags |= dict.fromkeys(before, min(program_tags(code[start:end])))


class Code:
    """Redacts the instructions of one file; addresses have `size` bytes."""

    def __init__(self, names: Names, rule_ids: RuleIds, size: int) -> None:
        self._packed = names.addresses.packed
        self._rule_ids = rule_ids
        self._size = size
        self._next = -1  # where the next part of the same address would be
        self._address = b""  # its parts so far

    def redact(self, instructions: Sequence[Instruction]) -> list[bytes]:
        """Their code, with other networks and rule ids."""
        code = [one.code for one in instructions]
        for number, one in enumerate(instructions):
            if one.code[:2] == LOADS_ID and number + 1 < len(code):
                low, high = code[number], code[number + 1]
                new = self._rule_ids.redact(int.from_bytes(low[4:] + high[4:], "little")).to_bytes(8, "little")
                code[number], code[number + 1] = low[:4] + new[:4], high[:4] + new[4:]
            elif one.code[:2] in _COMPARES and number >= len(_BEFORE):
                code[number] = self._compared(one.code, instructions[number - len(_BEFORE) : number])
        return code

    def _compared(self, code: bytes, before: Sequence[Instruction]) -> bytes:
        load, mask, _ = before
        if tuple(one.code[:2] for one in before) != _BEFORE or not _ADDRESS.search(load.annotation):
            return code
        return code[:4] + self._part(int.from_bytes(load.code[2:4], "little"), mask.code[4:], code[4:])

    def _part(self, offset: int, mask: bytes, part: bytes) -> bytes:
        self._address = part if offset != self._next else self._address + part
        self._next = offset + len(part)
        start = len(self._address) - len(part)
        replaced = self._packed(self._address[: self._size].ljust(self._size, b"\0"))[start : start + len(part)]
        return bytes(new & kept | old & ~kept for new, kept, old in zip(replaced, mask, part, strict=True))


class Comments:
    """Redacts the comments of instructions."""

    def __init__(self, names: Names, rule_ids: RuleIds) -> None:
        self._names = names
        self._rule_ids = rule_ids

    def redact(self, comment: str) -> str:
        """The comment with other names, networks and selectors; empty if it is of no known form."""
        identified = _RULE_ID.fullmatch(comment)
        if identified:
            return identified[1] + str(self._rule_ids.redact(int(identified[2])))
        boundary = _BOUNDARY.fullmatch(comment)
        if not boundary:
            return self._names.in_text(comment) if _COMMENT.fullmatch(comment) else ""
        start, what, space, rest = boundary.groups()
        if what == "rule":
            return start + what + space + self._rule(rest, ends=start.startswith("End"))
        if what == "tier":
            action = _ACTION_OF_TIER.search(rest)
            name = rest[: action.start()] if action else rest
            return start + what + space + self._names.name(name) + (action[0] if action else "")
        if what == "policy":
            return start + what + space + self._names.name(rest)
        name, last, number = rest.rpartition(" ")
        if not number.isdigit():
            name, last, number = rest, "", ""
        return start + what + space + self._names.name(name) + last + number

    def _rule(self, text: str, *, ends: bool) -> str:
        if ends:  # the rule's id, and before it, from v3.32 on, its policy
            name, space, identifier = text.rpartition(" ")
            return self._names.name(name) + space + self._names.identifier(identifier)
        name, space, fields = ("", "", text) if _FIELD.match(text) else text.partition(" ")
        # What is not quoted is a number or of an enumeration; another word is no text that Felix writes.
        parts = _QUOTED.split(fields)
        parts[::2] = [_BARE.sub(self._bare, part) for part in parts[::2]]
        return self._names.name(name) + space + _STRING.sub(self._field, "".join(parts))

    def _bare(self, found: re.Match[str]) -> str:
        field, colon, value = found.groups()
        return field + colon + (value if _BARE_KEPT.fullmatch(value) else self._names.identifier(value))

    def _field(self, found: re.Match[str]) -> str:
        field, colon, quoted = found.groups()
        return field + colon + _quoted(self._value(field, unescaped(f'"{quoted}"')))

    def _value(self, field: str, value: str) -> str:
        if field == "action" or (field == "name" and value in _PROTOCOLS):
            return value
        if field.endswith("_net"):
            return self._names.address(value)
        if field.endswith(("_ip_set_ids", "_ip_port_set_ids")):
            return self._names.ip_set(value)
        if field.endswith("selector"):
            return self._names.selector(value)
        return self._names.identifier(value) if field == "rule_id" else self._names.name(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
