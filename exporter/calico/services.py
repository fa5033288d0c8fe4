"""Services as Calico's programs see them: which backends a packet to an address and port gets.

A pure function of the NAT maps (`nat.py`) with the order of decisions of `calico_nat_lookup` in
felix/bpf-gpl/nat_lookup.h (v3.26 to v3.33). The maps know no names: a service is its address and port, and what shares
its id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from exporter.calico.nat import Backend, Frontend

# `NP_SPECIAL_IP` (felix/bpf-gpl/nat4.h, nat6.h): the frontend of a node port at every other node.
NODE_PORT_ADDRESSES = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}

NAT, DROPPED, EXCLUDED, NO_BACKENDS = "nat", "dropped", "excluded", "no_backends"


@dataclass(frozen=True, slots=True)
class Service:
    """What happens to a packet to `frontend`.

    `verdict` is `nat` (it goes to one of `backends`), `no_backends` (it is rejected), `dropped` (its source is in none
    of the source ranges) or `excluded` (Calico leaves it to another load balancer). `node_port` says that the port was
    found on a node's address; `addresses` are all frontends of the service's port, of whatever kind.
    """

    frontend: Frontend
    verdict: str
    backends: tuple[Backend, ...]
    node_port: bool
    addresses: tuple[tuple[str, int], ...]


class Services:
    """The services of one IP family."""

    def __init__(self, frontends: Iterable[Frontend], backends: Mapping[int, tuple[Backend, ...]]) -> None:
        self._backends = backends
        self._frontends: dict[tuple[str, int, int], list[Frontend]] = {}
        self._by_id: dict[int, dict[tuple[str, int], None]] = {}
        for one in frontends:
            self._frontends.setdefault((one.address, one.port, one.protocol), []).append(one)
            if not one.drops:
                self._by_id.setdefault(one.id, {})[one.address, one.port] = None

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
        if frontend is None:
            return None
        verdict, backends = self._decide(frontend, external=external)
        addresses = tuple(self._by_id.get(frontend.id, ())) if not frontend.drops else ()
        return Service(frontend, verdict, backends, self._is_node_port(frontend), addresses)

    def of_backend(self, address: str, port: int, protocol: int) -> tuple[Frontend, ...]:
        """The frontends whose packets can go to this address and port."""
        wanted = Backend(str(ip_address(address)), port)
        rows = (one for found in self._frontends.values() for one in found)
        return tuple(
            one
            for one in rows
            if one.protocol == protocol and not one.drops and wanted in self._backends.get(one.id, ())[: one.count]
        )

    def _matching(self, address: str, port: int, protocol: int, source: str) -> Frontend | None:
        found = self._frontends.get((address, port, protocol), ())
        if not source:
            return next((one for one in found if not one.drops), found[0] if found else None)
        matching = [one for one in found if _contains(one, ip_address(source))]
        return max(matching, key=lambda one: one.source_bits, default=None)

    def _decide(self, frontend: Frontend, *, external: bool) -> tuple[str, tuple[Backend, ...]]:
        if frontend.drops:
            return DROPPED, ()
        if frontend.excluded:
            return EXCLUDED, ()
        only_local = frontend.external_local if external else frontend.internal_local
        count = frontend.local if only_local else frontend.count
        backends = self._backends.get(frontend.id, ())[:count]
        return (NAT if backends else NO_BACKENDS), backends

    def _is_node_port(self, frontend: Frontend) -> bool:
        # Only node ports have a frontend at the special address.
        special = NODE_PORT_ADDRESSES[ip_address(frontend.address).version]
        return (special, frontend.port) in self._by_id.get(frontend.id, ())


def _contains(frontend: Frontend, source: IPv4Address | IPv6Address) -> bool:
    start = ip_address(frontend.source_range.partition("/")[0])
    shift = source.max_prefixlen - frontend.source_bits
    return start.version == source.version and shift >= 0 and int(start) >> shift == int(source) >> shift
