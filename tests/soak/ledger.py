"""The expected counts of what was sent: evaluates the demo's policies in Python. Pure.

A count is named by its family and reason, as ("dropped", "policy"). Packets of the links' own (multicast listening) are
in a program's total and in no other count, so a total has a lower bound here and all others are exact.
"""

from collections import Counter

from exporter.demo.plan import Pod
from exporter.demo.policy_rules import EGRESS, INGRESS

PACKETS = ("packets", "")
DROPPED, ACCEPTED, REDIRECTED = ("dropped", "policy"), ("accepted", "policy"), ("redirected", "peer")
OUTBOUND, INBOUND = "outbound", "inbound"
# An interface that comes up reports the multicast groups it listens to, some times over.
MAX_CHATTER = 60


def evaluate(pod: Pod, direction: str, port: int, version: int, source: str) -> tuple[list[str], bool]:
    """The prefixes of the rules that a UDP packet from the pod `source` counts on, and whether it is allowed."""
    passed, hits = 0, []
    for tier, step in pod.policy_path(direction).steps():
        rule = step.rule
        fits = rule.protocol in ("any", "udp") and rule.port in (0, port) and rule.version in (0, version)
        if (tier and tier == passed) or not fits or rule.app not in ("", source):
            continue
        hits.append(step.prefix)
        if rule.action != "pass":
            return hits, rule.action == "allow"
        passed = tier
    return hits, False


def prefix_of(labels: dict[str, str]) -> str:
    """The prefix of the rule that a series of `calico_bpf_policy_rule_hits_total` is about."""
    letter = labels["action"][0].upper()
    way = "I" if labels["direction"] == INBOUND else "E"
    owner = "/".join(filter(None, (labels["policy_namespace"], labels["policy"])))
    if labels["kind"] == "Profile":
        return f"{letter}R{way}{labels['rule']}|{owner}"
    if labels["rule"] == "end_of_tier":
        return f"{letter}P{way}|{labels['tier']}"
    return f"{letter}P{way}{labels['rule']}|{'np' if labels['policy_namespace'] else 'gnp'}/{owner}"


class Ledger:
    """`counts` by (interface, direction, count) since the interfaces' entries were made, `hits` by a rule's prefix.

    `closed` has the sums of what came to its end, by (direction, count): what was sent and what was counted of it.
    """

    def __init__(self):
        self.counts = Counter()
        self.hits = Counter()
        self.closed = {"sent": Counter(), "counted": Counter()}

    def udp(self, sender: Pod, receiver: Pod, version: int, port: int, count: int) -> None:
        """`count` packets of one new flow to a port of the receiver."""
        self._add(sender, OUTBOUND, PACKETS, count)
        hits, allowed = evaluate(sender, EGRESS, port, version, sender.name)
        self._hit(hits, 1 if allowed else count)
        if not allowed:
            self._add(sender, OUTBOUND, DROPPED, count)
            return
        self._add(sender, OUTBOUND, ACCEPTED, 1)
        hits, allowed = evaluate(receiver, INGRESS, port, version, sender.name)
        self._hit(hits, 1 if allowed else count)
        # Of a flow that both sides let in, the first packet alone meets the receiver's hook.
        self._add(receiver, INBOUND, PACKETS, 1 if allowed else count)
        self._add(receiver, INBOUND, ACCEPTED if allowed else DROPPED, 1 if allowed else count)
        if allowed:
            self._add(sender, OUTBOUND, REDIRECTED, count - 1)

    def odd(self, sender: Pod, reason: str, count: int) -> None:
        """`count` packets that are dropped for `reason` before policy is evaluated."""
        self._add(sender, OUTBOUND, PACKETS, count)
        self._add(sender, OUTBOUND, ("dropped", reason), count)

    def of(self, interfaces) -> Counter:
        """The counts of these interfaces."""
        return Counter({key: value for key, value in self.counts.items() if key[0] in interfaces})

    def close(self, counted: Counter, interfaces) -> None:
        """These interfaces' entries end here, with this counted of them."""
        for name, counts in (("sent", self.of(interfaces)), ("counted", counted)):
            for (_, direction, count), value in counts.items():
                self.closed[name][direction, count] += value
        self.counts = self.counts - self.of(interfaces)

    def _add(self, pod: Pod, direction: str, count: tuple[str, str], value: int) -> None:
        if value:
            self.counts[pod.interface, direction, count] += value

    def _hit(self, prefixes: list[str], value: int) -> None:
        for prefix in prefixes:
            self.hits[prefix] += value


def differences(sent: Counter, counted: Counter) -> list[str]:
    """A sentence about each count that is not what was sent."""
    found = []
    for key in sorted(sent.keys() | counted.keys()):
        interface, direction, count = key
        chatter = MAX_CHATTER if count == PACKETS else 0
        if not sent[key] <= counted[key] <= sent[key] + chatter:
            found.append(f"{interface} {direction} {' '.join(count)}: {sent[key]} sent, {counted[key]} counted")
    return found
