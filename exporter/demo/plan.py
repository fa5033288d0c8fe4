"""Who lives on the demo node, what their policies are, and what they send: the figures that everything else follows.

Pure data and names, with no knowledge of how a node is built.
"""

from dataclasses import dataclass

from exporter.calico.hooks import TC_EGRESS, TC_INGRESS
from exporter.calico.names import workload_interface

BLACKHOLE = "10.96.0.10"
_PROTOCOLS = {"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58}
_ACTIONS = {"pass": 0, "allow": 1, "deny": 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the demo's policy; `prefix` is the name from which Calico v3.32 with flow logs off makes its id."""

    prefix: str
    action: str
    protocol: str = "any"
    port: int = 0

    @property
    def id(self) -> int:
        """FNV-1a 64 of the prefix, which must be shorter than 63 characters."""
        number = 0xCBF29CE484222325
        for byte in self.prefix.encode():
            number = (number ^ byte) * 0x100000001B3 % 2**64
        return number

    def words(self) -> tuple[int, int, int, int]:
        """`struct rule` of node.bpf.c: id, port, protocol, action."""
        return self.id, self.port, _PROTOCOLS[self.protocol], _ACTIONS[self.action]


@dataclass(frozen=True, slots=True)
class Burst:
    """What a pod sends once a second: `count` packets of `kind` to an address and port."""

    kind: str
    address: str
    port: int
    count: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the demo: its name, addresses, policy by hook (in order; no rule means all is allowed) and traffic."""

    namespace: str
    name: str
    number: int
    outbound: tuple[Rule, ...] = ()
    inbound: tuple[Rule, ...] = ()
    sends: tuple[Burst, ...] = ()

    @property
    def interface(self) -> str:
        """The host side of its veth, named as Calico's CNI plugin names it."""
        return workload_interface("cali", self.namespace, self.name)

    @property
    def ipv4(self) -> str:
        """Its IPv4 address."""
        return f"10.65.0.{self.number}"

    @property
    def ipv6(self) -> str:
        """Its IPv6 address."""
        return f"fd00:65::{self.number:x}"

    @property
    def mac(self) -> str:
        """The address of its own side of the veth."""
        return f"02:00:00:00:65:{self.number:02x}"

    def rules(self, hook: int) -> tuple[Rule, ...]:
        """Its policy at a tc hook: what leaves the pod enters the host."""
        return {TC_INGRESS: self.outbound, TC_EGRESS: self.inbound}[hook]


_GATE_OUT = Rule("DPE0|gnp/security.gate", "deny", "udp", 6666)
_PASS_OUT = Rule("PPE1|gnp/security.gate", "pass")

FRONTEND = Pod(
    "shop",
    "frontend",
    2,
    outbound=(_GATE_OUT, _PASS_OUT, Rule("ARE0|kns.shop", "allow")),
    sends=(Burst("udp", "10.65.0.3", 8080, 5), Burst("udp", "10.65.0.4", 6666, 3), Burst("udp", "fd00:65::3", 8080, 2)),
)
CART = Pod(
    "shop",
    "cart",
    3,
    inbound=(Rule("API0|np/shop/allow-cart", "allow", "udp", 8080), Rule("DPI|default", "deny")),
    sends=(Burst("udp", "10.65.0.4", 5432, 4),),
)
DATABASE = Pod(
    "data",
    "db",
    4,
    inbound=(Rule("API0|np/data/allow-db", "allow", "any", 5432), Rule("DPI|default", "deny")),
)
PROBE = Pod(
    "ops",
    "probe",
    5,
    sends=(
        Burst("udp", "10.65.0.4", 9999, 2),
        Burst("short", "10.65.0.4", 0, 1),
        Burst("malformed", "10.65.0.4", 0, 1),
        Burst("fragment", "10.65.0.4", 0, 1),
        Burst("udp", BLACKHOLE, 443, 1),
    ),
)
PODS = (FRONTEND, CART, DATABASE, PROBE)
