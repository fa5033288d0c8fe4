"""The rule counter map `cali_rule_ctrs<V>`, and how Felix computes the rule ids that are its keys.

An entry is `u64 rule id` -> `u64` per CPU (felix/bpf/counters, `PolicyMap`): one for each rule and node, whatever
interface and IP family. Deny hits are packets, allow hits are new flows. Names of ids come from the policy debug files;
the formula here is a cross-check, and finds a rule's direction and a profile's name where a file has none. It holds
while flow logs are off: with them the ids cannot be computed and change when Felix restarts.
"""

import base64
import struct
from collections.abc import Iterator, Mapping

from exporter.calico import LayoutError
from exporter.calico.tables import Columns
from exporter.hashes import sha256

KEY_SIZE = VALUE_SIZE = 8
_WORD = struct.Struct("=Q")
NO_PROFILE_MATCH = 0  # the id of "no profile matched"; before v3.30 of every tier's end too
INGRESS, EGRESS = "ingress", "egress"

_MAX_PREFIX = 62
_HASHED_LENGTH = 41
_KEPT_LENGTH = 10


# The hits of each rule by its id; one without an entry has none yet: the first hit creates it.
RuleHits = Mapping[int, int]


def decode_rule_hits(columns: Columns) -> RuleHits:
    """The hits by rule id, summed over the CPUs. Raises `LayoutError`."""
    if columns.key_size != KEY_SIZE or columns.value_size != VALUE_SIZE:
        raise LayoutError(
            f"the rule counter map has keys of {columns.key_size} and values of {columns.value_size} bytes, "
            f"expected {KEY_SIZE} and {VALUE_SIZE}"
        )
    return {rule_id: hits for (rule_id,), (hits,) in sorted(columns.rows(_WORD, _WORD))}


def rule_ids(action: str, direction: str, position: int, owner: str, kind: str, name: str) -> Iterator[int]:
    """The ids of a rule in each release while flow logs are off: v3.32, v3.30 and v3.31, v3.29 and older.

    `action` is `allow`, `deny` or `pass`; `direction` `ingress` or `egress`; `owner` `policy` or `profile`; `name` as
    in the file, with its namespace; `kind` as in the file, empty where it has none.
    """
    start = f"{action[0]}{'p' if owner == 'policy' else 'r'}{direction[0]}{position}".upper()
    if kind in _SHORT_KINDS:
        yield _fnv(_limited(f"{start}|{_SHORT_KINDS[kind]}/{name}"))
    yield _fnv(_limited(f"{start}|{name}"))
    word = {"pass": "next-tier"}.get(action, action)
    yield _fnv(f"{word}{owner.capitalize()}{direction.capitalize()}{position}{name}")


def tier_end_id(action: str, direction: str, tier: str) -> int:
    """The id of a tier's end from v3.30 on, while flow logs are off."""
    return _fnv(_limited(f"{action[0]}p{direction[0]}".upper() + f"|{tier}"))


# `KindShortName` in felix/types/policy_id.go at v3.32.1.
_SHORT_KINDS = {
    "NetworkPolicy": "np",
    "GlobalNetworkPolicy": "gnp",
    "KubernetesNetworkPolicy": "knp",
    "KubernetesClusterNetworkPolicy": "kcnp",
}


def _limited(prefix: str) -> str:
    """A prefix that fits NFLOG: the middle of a long one is replaced by its hash (`felix/hashutils`)."""
    if len(prefix.encode()) <= _MAX_PREFIX:
        return prefix
    digest = base64.urlsafe_b64encode(sha256(prefix.encode()).digest()).decode()
    return f"{prefix[:_KEPT_LENGTH]}_{digest[:_HASHED_LENGTH]}_{prefix[-_KEPT_LENGTH:]}"


def _fnv(text: str) -> int:
    """FNV-1a with 64 bits."""
    number = 0xCBF29CE484222325
    for byte in text.encode():
        number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return number
