"""The policies of the demo, and the path of a packet through all policies of a pod.

Pure data in Calico's words: tiers, policies, rules, profiles, and the ids of all that counts. Directions are those of a
policy: `ingress` is traffic to the pod, `egress` traffic from it. Other modules write all this to maps and files.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

INGRESS, EGRESS = "ingress", "egress"
DIRECTIONS = (INGRESS, EGRESS)
PROTOCOLS = {"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
_ACTIONS = {"allow": 1, "deny": 2, "pass": 3}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: it allows, denies or passes (`action`) what it matches; unset fields match everything.

    `version` is the IP version 4 or 6, `app` the label of the pods that a packet must come from.
    """

    action: str
    protocol: str = "any"
    port: int = 0
    version: int = 0
    app: str = ""


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier; `end` is the action for a packet that none of its rules matches: `deny` or `pass`."""

    name: str
    end: str = "deny"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: `name` is `namespace/name`, or the name alone of a global one.

    Rules of a direction are None where the policy's types leave that direction out.
    """

    kind: str
    name: str
    tier: Tier
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None

    def rules(self, direction: str) -> tuple[Rule, ...] | None:
        """Its rules of this direction."""
        return self.ingress if direction == INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class Step:
    """A counted step on the path: a rule, a tier's end, or that no profile matched, which has no prefix."""

    prefix: str
    rule: Rule

    @property
    def id(self) -> int:
        """The key of its counter, as Calico v3.32 makes it with flow logs off: FNV-1a 64 of the prefix, or 0.

        A prefix of 63 characters or more would be shortened first: the demo has none.
        """
        return _fnv1a(self.prefix) if self.prefix else 0

    def words(self, tier: int) -> tuple[int, int, int, int, int, int, int]:
        """`struct rule` of node.bpf.c: id, IP set, port, protocol, action, IP version, tier."""
        rule = self.rule
        ip_set = ip_set_id(rule.app) if rule.app else 0
        return self.id, ip_set, rule.port, PROTOCOLS[rule.protocol], _ACTIONS[rule.action], rule.version, tier


@dataclass(frozen=True, slots=True)
class PolicySteps:
    """The rules of one policy on the path."""

    kind: str
    name: str
    rules: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class TierSteps:
    """A tier on the path: its policies that apply, and its end."""

    name: str
    policies: tuple[PolicySteps, ...]
    end: Step


@dataclass(frozen=True, slots=True)
class PolicyPath:
    """The path through the policies of a pod in one direction: tiers, then the profile's rules, then no match."""

    tiers: tuple[TierSteps, ...]
    profile: str
    profile_rules: tuple[Step, ...]
    no_match: Step

    def steps(self) -> Iterator[tuple[int, Step]]:
        """Every step in order with the number of its tier, from 1; 0 is outside of any."""
        for number, tier in enumerate(self.tiers, 1):
            for policy in tier.policies:
                yield from ((number, step) for step in policy.rules)
            yield number, tier.end
        yield from ((0, step) for step in (*self.profile_rules, self.no_match))


def policy_path(policies: Iterable[Policy], profile: str, direction: str) -> PolicyPath:
    """The path through these policies, whose tiers must stand together, and a profile that allows; "" is no profile."""
    applying = [policy for policy in policies if policy.rules(direction) is not None]
    tiers = tuple(_tier(tier, found, direction) for tier, found in groupby(applying, lambda policy: policy.tier))
    allows = (Step(f"AR{_letter(direction)}0|{profile}", Rule("allow")),) if profile else ()
    return PolicyPath(tiers, profile, allows, Step("", Rule("deny")))


def _tier(tier: Tier, policies: Iterable[Policy], direction: str) -> TierSteps:
    found = []
    for policy in policies:
        owner = f"{'np' if '/' in policy.name else 'gnp'}/{policy.name}"
        steps = (
            Step(f"{_letter(rule.action)}P{_letter(direction)}{index}|{owner}", rule)
            for index, rule in enumerate(policy.rules(direction) or ())
        )
        found.append(PolicySteps(policy.kind, policy.name, tuple(steps)))
    end = Step(f"{_letter(tier.end)}P{_letter(direction)}|{tier.name}", Rule(tier.end))
    return TierSteps(tier.name, tuple(found), end)


def selector(app: str) -> str:
    """The selector of the pods with this label."""
    return f"app == '{app}'"


def ip_set_name(app: str) -> str:
    """The name of the IP set of these pods: of the recorded form, `s:` and a hash of 224 bits."""
    digest = hashlib.sha224(selector(app).encode()).digest()
    return f"s:{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def ip_set_id(app: str) -> int:
    """The 64-bit number of that IP set."""
    return _fnv1a(ip_set_name(app))


def _letter(word: str) -> str:
    return word[0].upper()


def _fnv1a(text: str) -> int:
    number = 0xCBF29CE484222325
    for byte in text.encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return number
