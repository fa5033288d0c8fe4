"""The pods of the demo node, their policies, their traffic and their services.

Pure data: how a node is built is elsewhere.
"""

from dataclasses import dataclass

from exporter.calico.names import workload_interface
from exporter.demo.policy_rules import Policy, PolicyPath, Rule, Tier, policy_path
from exporter.demo.service_maps import Service

BLACKHOLE = "10.96.0.10"


@dataclass(frozen=True, slots=True)
class Burst:
    """What a pod sends once a second: `count` packets of `kind` to an address and port."""

    kind: str
    address: str
    port: int
    count: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the demo: its name, addresses, the policies that select it in order, and its traffic.

    Its label `app` is its name. Without its namespace's profile, what no policy decides is denied.
    """

    namespace: str
    name: str
    number: int
    policies: tuple[Policy, ...] = ()
    sends: tuple[Burst, ...] = ()
    has_profile: bool = True

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
        """The MAC address of the pod's side of the veth."""
        return f"02:00:00:00:65:{self.number:02x}"

    def policy_path(self, direction: str) -> PolicyPath:
        """The path through its policies in this direction, `ingress` or `egress`."""
        return policy_path(self.policies, f"kns.{self.namespace}" if self.has_profile else "", direction)


_AUDIT, _SECURITY, _DEFAULT = Tier("audit", end="pass"), Tier("security"), Tier("default")
# Both of its lists end in a rule that matches everything: the end of its tier is never reached and has no code.
_GATE = Policy(
    "GlobalNetworkPolicy",
    "security.gate",
    _SECURITY,
    ingress=(Rule("deny", "udp", 7777), Rule("pass")),
    egress=(Rule("deny", "udp", 6666), Rule("pass")),
)
_WATCH = Policy("GlobalNetworkPolicy", "audit.watch", _AUDIT, ingress=(Rule("deny", "tcp", 23),))
_ALLOW_CART = Policy(
    "NetworkPolicy",
    "shop/allow-cart",
    _DEFAULT,
    ingress=(
        Rule("allow", "udp", 8080, app="frontend"),
        Rule("allow", "icmp", version=4),
        Rule("allow", "icmpv6", version=6),
    ),
)
_ALLOW_DATABASE = Policy(
    "NetworkPolicy", "data/allow-db", _DEFAULT, ingress=(Rule("allow", "tcp", 5432), Rule("allow", "udp", 5432))
)

FRONTEND = Pod(
    "shop",
    "frontend",
    2,
    policies=(_GATE,),
    sends=(Burst("udp", "10.65.0.3", 8080, 5), Burst("udp", "10.65.0.4", 6666, 3), Burst("udp", "fd00:65::3", 8080, 2)),
)
CART = Pod("shop", "cart", 3, policies=(_ALLOW_CART,), sends=(Burst("udp", "10.65.0.4", 5432, 4),))
DATABASE = Pod("data", "db", 4, policies=(_GATE, _ALLOW_DATABASE))
PROBE = Pod(
    "ops",
    "probe",
    5,
    policies=(_WATCH,),
    sends=(
        Burst("udp", "10.65.0.4", 9999, 2),
        Burst("short", "10.65.0.4", 0, 1),
        Burst("malformed", "10.65.0.4", 0, 1),
        Burst("fragment", "10.65.0.4", 0, 1),
        Burst("udp", BLACKHOLE, 443, 2),
        Burst("udp", "10.65.0.2", 7777, 1),
    ),
)
PODS = (FRONTEND, CART, DATABASE, PROBE)

NODE_ADDRESS = "192.168.50.1"
POOLS = ("10.65.0.0/16", "fd00:65::/64")
CART_SERVICE = Service(1, ("10.96.0.20", "fd00:96::14"), 80, "udp", (CART.ipv4, CART.ipv6), 8080)
DATABASE_SERVICE = Service(
    2,
    ("10.96.0.30", "fd00:96::1e"),
    5432,
    "tcp",
    (DATABASE.ipv4, DATABASE.ipv6),
    5432,
    node_port=30432,
    affinity=10800,
)
EMPTY_SERVICE = Service(3, ("10.96.0.40", "fd00:96::28"), 80, "tcp")
SERVICES = (CART_SERVICE, DATABASE_SERVICE, EMPTY_SERVICE)
