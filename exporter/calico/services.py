"""Services as Calico's programs see them: which backends a packet to an address and port gets.

A pure function of the NAT maps (`nat.py`) with the order of decisions of `calico_nat_lookup` in
felix/bpf-gpl/nat_lookup.h (v3.26 to v3.33). The maps know no names: a service is its address and port, and what shares
its id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from exporter.calico.nat import Affinity, Backend, Frontend

# `NP_SPECIAL_IP` (felix/bpf-gpl/nat4.h, nat6.h): the frontend of a node port at every other node.
NODE_PORT_ADDRESSES = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}

NAT, DROPPED, EXCLUDED, NO_BACKENDS = "nat", "dropped", "excluded", "no_backends"


@dataclass(frozen=True, slots=True)
class Service:
    """What happens to a packet to `frontend`.

    `verdict` is `nat` (it goes to one of `backends`), `no_backends` (it is rejected), `dropped` (its source is in none
    of the source ranges) or `excluded` (Calico leaves it to another load balancer).
    """

    frontend: Frontend
    verdict: str
    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one IP family: frontends, the backends of each id, and the clients that affinity binds."""

    frontends: tuple[Frontend, ...]
    backends: Mapping[int, tuple[Backend, ...]]
    affinity: tuple[Affinity, ...] = ()
    _at: dict[tuple[str, int, int], list[Frontend]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.frontends:
            self._at.setdefault((one.address, one.port, one.protocol), []).append(one)

    def find(
        self, address: str, port: int, protocol: int, source: str = "", *, host: bool = False, external: bool = False
    ) -> Service | None:
        """The service at an address, None if it is none.

        `host` says that the address is a node's by Calico's routes: its node ports answer there. `external` says that
        `source` is neither a pod nor a node. Without a source, source ranges are not applied.
        """
        ip = ip_address(address)
        frontend = self._matching(str(ip), port, protocol, source)
        if frontend is None and host:
            frontend = self._matching(NODE_PORT_ADDRESSES[ip.version], port, protocol, source)
        return None if frontend is None else Service(frontend, *self._decide(frontend, external=external))

    def bound(self, address: str, port: int, protocol: int, client: str) -> Backend | None:
        """The backend that session affinity gave this client last at an address, which may have expired since.

        The address is that of the packet, also where it is for a node port.
        """
        asked = str(ip_address(address)), port, protocol, str(ip_address(client))
        found = (one for one in self.affinity if (one.address, one.port, one.protocol, one.client) == asked)
        return next((one.backend for one in found), None)

    def _matching(self, address: str, port: int, protocol: int, source: str) -> Frontend | None:
        found = self._at.get((address, port, protocol), ())
        if not source:
            return next((one for one in found if not one.drops), found[0] if found else None)
        matching = [one for one in found if _contains(one, ip_address(source))]
        return max(matching, key=lambda one: one.source_bits, default=None)

    def _decide(self, frontend: Frontend, *, external: bool) -> tuple[str, tuple[Backend, ...]]:
        if frontend.drops:
            return DROPPED, ()
        if frontend.excluded:
            return EXCLUDED, ()
        backends = self.backends.get(frontend.id, ())[: frontend.count]
        if frontend.external_local if external else frontend.internal_local:
            backends = backends[: frontend.local]
        return (NAT if backends else NO_BACKENDS), backends


def _contains(frontend: Frontend, source: IPv4Address | IPv6Address) -> bool:
    start = ip_address(frontend.source_range.partition("/")[0])
    shift = source.max_prefixlen - frontend.source_bits
    return start.version == source.version and shift >= 0 and int(start) >> shift == int(source) >> shift
