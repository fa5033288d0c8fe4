"""Describes what a rule matches, from the protobuf text that Felix writes after `Start of rule`.

The text is `proto.Rule` (felix/proto/felixbackend.proto) in protobuf's text format, whose spacing varies by build and
whose messages have angle brackets before v3.30 and braces from then on. A text that cannot be parsed is shown
unchanged.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.errors import ExporterError

# A value is a text, or the fields of a message.
Fields = list[tuple[str, "str | Fields"]]

_TOKEN = re.compile(r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[{}<>:;,])|(?P<word>[^\s{}<>:;,"]+))')
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_PLAIN_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 8  # a rule has messages three levels deep
_SET_NUMBERS = re.compile(r"0x[0-9a-fA-F]{1,16}")
_SET_IN_IF = re.compile(r" ipset (\S+) \((0x[0-9a-fA-F]{1,16})\)")
_SETS_BY_LEG = re.compile(r"(not_)?(src|dst)_ip_set_ids:<([^<>]*)>")
_LEGS_OF_MATCH = re.compile(r"(!)?(src|dst)=\{([^{}]*)\}")


class RuleTextError(ExporterError):
    """The text is not protobuf text format. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule matches, as text, and the names of the IP sets that it uses."""

    words: str
    ip_sets: tuple[str, ...] = ()


def match_of(text: str, *, namespaced: bool = False) -> Match:
    """What the rule with this text matches; the text itself where it cannot be parsed.

    In a policy of a namespace (`namespaced`) a selector without one for namespaces means the policy's own.
    """
    try:
        fields = parse_rule_text(text)
    except RuleTextError:
        return Match(text)
    sets = [name for field in _SET_FIELDS for name in _texts(fields, field)]
    return Match(", ".join(_words(fields, namespaced)) or "everything", tuple(dict.fromkeys(sets)))


def parse_rule_text(text: str) -> Fields:
    """The fields of a rule's text in order; repeated ones occur several times. Raises `RuleTextError`."""
    tokens = list(_tokens(text))
    fields, end = _fields(tokens, 0, "", 0)
    if end != len(tokens):
        raise RuleTextError("a bracket closes what was not open")
    return fields


def set_numbers(text: str, comments: Sequence[str]) -> dict[str, int]:
    """The numbers of a rule's IP sets by name, from the comments in any release's format."""
    try:
        fields = parse_rule_text(text)
    except RuleTextError:
        fields = []
    numbers: dict[str, int] = {}
    for comment in comments:
        numbers |= {name: int(number, 16) for name, number in _SET_IN_IF.findall(comment)}
        legs = _SETS_BY_LEG.findall(comment) if comment.startswith("IPSets ") else _LEGS_OF_MATCH.findall(comment)
        for negated, leg, listed in legs:
            names = _texts(fields, f"{'not_' if negated else ''}{leg}_ip_set_ids")
            found = [int(number, 16) for number in _SET_NUMBERS.findall(listed)]
            if len(names) == len(found):  # else they cannot be matched
                numbers |= dict(zip(names, found, strict=True))
    return numbers


_SET_FIELDS = tuple(
    f"{negated}{leg}"
    for negated in ("", "not_")
    for leg in (
        "src_ip_set_ids",
        "dst_ip_set_ids",
        "src_named_port_ip_set_ids",
        "dst_named_port_ip_set_ids",
        "dst_ip_port_set_ids",
    )
)


# Fields that are described or match nothing. Any other field is shown unchanged: it narrows the rule.
_KNOWN_FIELDS = {
    "action",
    "rule_id",
    "metadata",
    "log_prefix",
    "ip_version",
    *_SET_FIELDS,
    *(f"{negated}{one}" for negated in ("", "not_") for one in ("protocol", "icmp_type", "icmp_type_code")),
    *(f"{negated}{leg}_{one}" for negated in ("", "not_") for leg in ("src", "dst") for one in ("net", "ports")),
    *(f"original_{one}_selector" for one in ("src", "dst", "not_src", "not_dst", "src_namespace", "dst_namespace")),
    *(f"original_{leg}_service{rest}" for leg in ("src", "dst") for rest in ("", "_namespace")),
    *(f"{leg}_service_account_match" for leg in ("src", "dst")),
}


def _words(fields: Fields, namespaced: bool) -> Iterator[str]:  # noqa: FBT001  a fact
    for version in _texts(fields, "ip_version"):
        yield {"IPV4": "IPv4 only", "IPV6": "IPv6 only"}.get(version, version)
    for negated in ("", "not_"):
        before = "not " if negated else ""
        for protocol in _messages(fields, f"{negated}protocol"):
            yield from (before + _protocol(name, value) for name, value in protocol)
        yield from (f"{before}ICMP type {number}" for number in _texts(fields, f"{negated}icmp_type"))
        for icmp in _messages(fields, f"{negated}icmp_type_code"):
            kind, code = (_texts(icmp, name) for name in ("type", "code"))
            yield f"{before}ICMP type {''.join(kind) or 0} code {''.join(code) or 0}"
    for leg, preposition in (("src", "from"), ("dst", "to")):
        for negated in ("", "not_"):
            own = namespaced and not negated
            yield from _leg(fields, leg, negated, preposition + (" not" if negated else ""), own_namespace=own)
    for name, value in fields:
        if name not in _KNOWN_FIELDS:
            yield f"{name} {value if isinstance(value, str) else _listed(value)}"


def _listed(fields: Fields) -> str:
    return " ".join(f"{name} {value if isinstance(value, str) else _listed(value)}" for name, value in fields)


def _protocol(name: str, value: "str | Fields") -> str:
    return f"protocol {value}" if name == "number" else str(value).lower()


def _leg(fields: Fields, leg: str, negated: str, preposition: str, *, own_namespace: bool) -> Iterator[str]:
    nets = _texts(fields, f"{negated}{leg}_net")
    if nets:
        yield f"{preposition} {' or '.join(nets)}"
    sets = _texts(fields, f"{negated}{leg}_ip_set_ids")
    selectors = list(_selectors(fields, leg, negated))
    if own_namespace and _texts(fields, f"original_{leg}_selector"):
        selectors += [] if _texts(fields, f"original_{leg}_namespace_selector") else ["the policy's own namespace"]
    if selectors:
        yield f"{preposition} {' and '.join(selectors)}"
    elif sets:
        yield f"{preposition} IP set {' and '.join(sets)}"
    named = _texts(fields, f"{negated}{leg}_named_port_ip_set_ids")
    ports = [*map(_port, _messages(fields, f"{negated}{leg}_ports")), *(f"named port set {name}" for name in named)]
    if ports:
        yield f"{preposition} port {' or '.join(ports)}"
    services = [] if negated else _texts(fields, f"{leg}_ip_port_set_ids")
    if services:
        yield f"{preposition} address and port in IP set {' and '.join(services)}"


def _selectors(fields: Fields, leg: str, negated: str) -> Iterator[str]:
    yield from (f"{selector!s}" for selector in _texts(fields, f"original_{negated}{leg}_selector"))
    if negated:
        return
    for selector in _texts(fields, f"original_{leg}_namespace_selector"):
        yield "any namespace" if selector == "all()" else f"namespace {selector}"
    service = _texts(fields, f"original_{leg}_service")
    if service:
        yield f"service {'/'.join([*_texts(fields, f'original_{leg}_service_namespace'), *service])}"
    for accounts in _messages(fields, f"{leg}_service_account_match"):
        yield from (f"service account {name}" for name in _texts(accounts, "names"))
        yield from (f"service account {selector}" for selector in _texts(accounts, "selector"))


def _port(span: Fields) -> str:
    first, last = (("".join(_texts(span, name)) or "0") for name in ("first", "last"))
    return first if first == last else f"{first}-{last}"


def _texts(fields: Fields, name: str) -> list[str]:
    return [value for key, value in fields if key == name and isinstance(value, str)]


def _messages(fields: Fields, name: str) -> list[Fields]:
    return [value for key, value in fields if key == name and isinstance(value, list)]


def _tokens(text: str) -> Iterator[str]:
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise RuleTextError("a quotation mark is open at its end")
        position = match.end()
        yield match["string"] or match["mark"] or match["word"]


def _fields(tokens: Sequence[str], position: int, closing: str, depth: int) -> tuple[Fields, int]:
    if depth > _MAX_DEPTH:
        raise RuleTextError("its messages are too deep")
    fields: Fields = []
    while position < len(tokens) and tokens[position] != closing:
        name, position = tokens[position], position + 1
        if name in {",", ";"}:
            continue
        if not name[0].isidentifier() or position >= len(tokens):
            raise RuleTextError(f"{name} stands where a field should begin")
        position += tokens[position] == ":"
        value = tokens[position] if position < len(tokens) else ""
        if value in _CLOSING:
            message, position = _fields(tokens, position + 1, _CLOSING[value], depth + 1)
            fields.append((name, message))
        elif not value or value in {"}", ">", ":", ",", ";"}:
            raise RuleTextError(f"{name} has no value")
        else:
            fields.append((name, unescaped(value)))
        position += 1
    if closing and position >= len(tokens):
        raise RuleTextError("a bracket is open at its end")
    return fields, position


def unescaped(value: str) -> str:
    """The text in a quoted value; a value without quotation marks as it is."""
    if not value.startswith('"'):
        return value

    def escaped(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, other = match.groups()
        if other:
            return _PLAIN_ESCAPES.get(other, other)
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)])

    # Escapes are bytes, of which several can be one character.
    return _ESCAPE.sub(escaped, value[1:-1].encode("utf-8", "replace")).decode("utf-8", "replace")
