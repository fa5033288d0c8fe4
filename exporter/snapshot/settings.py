"""The user's settings for reading a node."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from exporter.calico.layout_file import LayoutFile
from exporter.calico.names import DEFAULT_PREFIXES
from exporter.node.endpoints import Endpoints

FlowsOf = Callable[[Endpoints], Collection[str]]


def no_addresses(endpoints: Endpoints) -> Collection[str]:
    """Of connection tracking, only the flows that an endpoint of the node denied are kept."""
    del endpoints
    return ()


def all_addresses(endpoints: Endpoints) -> Collection[str]:
    """The addresses of all endpoints of the node."""
    return {address for one in endpoints.by_index.values() for address in one.addresses}


@dataclass(frozen=True, slots=True)
class Settings:
    """User settings for the node: workload interface prefixes, and slot names for a custom build of Calico.

    `flows_of` names the addresses whose connection-tracking entries the part `conntrack` keeps, and about which
    `interfaces_to` asks.
    """

    prefixes: tuple[str, ...] = DEFAULT_PREFIXES
    layout_file: LayoutFile | None = None
    flows_of: FlowsOf = no_addresses
