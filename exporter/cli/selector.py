"""Selects endpoints by interface, pod or address."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import click

from exporter.cli.candidates import complete_addresses, complete_interfaces, complete_pods
from exporter.cli.options import Decorator, flag, gathering
from exporter.diagnosis.selection import NotHere, WrongUsage, pod_named
from exporter.node.endpoints import Endpoint
from exporter.printable import printable


@dataclass(frozen=True, slots=True)
class Selector:
    """What the user selected; all empty means every endpoint of the node."""

    interfaces: tuple[str, ...] = ()
    pod: str | None = None
    ip: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which counters to show: of which endpoints, of how many top droppers (None: all), in which format."""

    selector: Selector
    top: int | None
    output: str


def selector_options(command: str) -> Decorator:
    """The options `--interface`, `--pod` and `--ip`, handed to the command as one `Selector` called `selector`."""
    option = partial(flag, command=command)
    options = (
        option(
            "interface", "Only this interface (can be repeated).", multiple=True, shell_complete=complete_interfaces
        ),
        option("pod", "Only this pod, [NAMESPACE/]NAME.", shell_complete=complete_pods),
        option("ip", "Only the endpoint with this address.", shell_complete=complete_addresses),
    )
    return gathering(
        options, "selector", lambda given: Selector(given.pop("interface"), given.pop("pod"), given.pop("ip"))
    )


def select(endpoints: Iterable[Endpoint], selector: Selector) -> set[int]:
    """The interface indexes of the selected endpoints.

    An ambiguous pod name is wrong usage (exit 2, with the list); nothing found is a failure (exit 1).
    """
    every = list(endpoints)
    chosen: list[list[Endpoint]] = []
    if selector.interfaces:
        chosen.append([found for name in selector.interfaces for found in _by_interface(every, name)])
    if selector.pod is not None:
        chosen.append([_by_pod(every, selector.pod)])
    if selector.ip is not None:
        chosen.append([_by_ip(every, selector.ip)])
    if not chosen:
        return {one.ifindex for one in every}
    indexes = set.intersection(*({one.ifindex for one in found} for found in chosen))
    if not indexes:
        raise click.ClickException("no endpoint fits all of --interface, --pod and --ip at once")
    return indexes


def _by_interface(every: Sequence[Endpoint], name: str) -> list[Endpoint]:
    found = [one for one in every if one.interface == name]
    if not found:
        raise click.ClickException(f"Calico knows no interface {name} on this node")
    return found


def _by_pod(every: Sequence[Endpoint], wanted: str) -> Endpoint:
    try:
        return pod_named(every, wanted, "--pod")
    except WrongUsage as error:
        raise click.UsageError(printable(str(error))) from error
    except NotHere as error:
        raise click.ClickException(printable(str(error))) from error


def _by_ip(every: Sequence[Endpoint], wanted: str) -> Endpoint:
    try:
        address = str(ipaddress.ip_address(wanted))
    except ValueError:
        raise click.UsageError(f"--ip {wanted} is not an IP address") from None
    found = [one for one in every if address in one.addresses]
    if not found:
        raise click.ClickException(f"no endpoint on this node has the address {address}: is it on another node?")
    return found[0]
