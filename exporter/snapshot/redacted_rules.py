"""Replaces the ids of rules: Felix hashes them from the names of policies and tiers, and this program does so too.

An id that follows from the formula gets the one that follows from the new name, so that a rule's direction and the name
of a profile can still be found. Any other is replaced by a keyed hash.
"""

import hashlib
from collections.abc import Iterable, Iterator

from exporter.calico.policy_debug import PROFILE, Policy, PolicyProgram, Rule
from exporter.calico.rules import EGRESS, INGRESS, KEY_SIZE, NO_PROFILE_MATCH, rule_ids, tier_end_id
from exporter.snapshot.redacted_names import Names

_ORDERS = (INGRESS, EGRESS)


class RuleIds:
    """The replacements under a key, once `learn` has seen all programs."""

    def __init__(self, names: Names, key: bytes, namespaces: Iterable[str]) -> None:
        self._names = names
        self._key = key
        # Before v3.32 no file names a profile.
        self._profiles = [f"kns.{namespace}" for namespace in sorted(set(namespaces)) if namespace]
        self._known = {NO_PROFILE_MATCH: NO_PROFILE_MATCH}

    def learn(self, program: PolicyProgram) -> None:
        """Notes the ids in this program that follow from names."""
        for tier in program.tiers:
            if tier.end_id not in self._known:
                self._note(tier.end_id, self._of_tier(tier.end_action or "deny", tier.name))
            for policy in tier.policies:
                for rule in policy.rules:
                    if rule.id not in self._known:
                        self._note(rule.id, self._of_rule(policy, rule))

    def redact(self, number: int) -> int:
        """The replacement of a rule's id."""
        if number not in self._known:
            hashed = hashlib.blake2b(str(number).encode(), key=self._key, digest_size=KEY_SIZE)
            self._known[number] = int.from_bytes(hashed.digest(), "big") or 1
        self._names.replaced[str(number)] = str(self._known[number])
        return self._known[number]

    def redact_keys(self, keys: bytes) -> bytes:
        """The keys of the rule counter map, replaced."""
        numbers = (int.from_bytes(keys[start : start + KEY_SIZE], "little") for start in range(0, len(keys), KEY_SIZE))
        return b"".join(self.redact(number).to_bytes(KEY_SIZE, "little") for number in numbers)

    def _note(self, number: int, pairs: Iterable[tuple[int, int]]) -> None:
        found = next((new for old, new in pairs if old == number), None)
        if found is not None:
            self._known[number] = found

    def _of_tier(self, action: str, tier: str) -> Iterator[tuple[int, int]]:
        renamed = self._names.name(tier)
        return ((tier_end_id(action, one, tier), tier_end_id(action, one, renamed)) for one in _ORDERS)

    def _of_rule(self, policy: Policy, rule: Rule) -> Iterator[tuple[int, int]]:
        """The ids that the formula of any release yields, with those of the new names."""
        owner = "profile" if policy.kind == PROFILE else "policy"
        for name in [policy.name] if policy.name else self._profiles:
            for direction in _ORDERS if rule.action else ():
                old, new = (
                    rule_ids(rule.action, direction, rule.position, owner, policy.kind, one)
                    for one in (name, self._names.name(name))
                )
                yield from zip(old, new, strict=True)
