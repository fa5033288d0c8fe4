"""Selects endpoints by interface, pod or address."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from exporter.cli.candidates import complete_addresses, complete_interfaces, complete_pods
from exporter.cli.options import flag
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


def selector_options(command: str) -> Callable[[Any], Any]:
    """The options `--interface`, `--pod` and `--ip`, handed to the command as one `Selector` called `selector`."""

    def decorate(function: Any) -> Any:
        def gathered(**given: Any) -> Any:
            selector = Selector(given.pop("interface"), given.pop("pod"), given.pop("ip"))
            return function(selector=selector, **given)

        gathered.__doc__, gathered.__name__ = function.__doc__, function.__name__
        gathered.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        more: dict[str, Any] = {"command": command, "default": None}
        gathered = flag("ip", "Only the endpoint with this address.", shell_complete=complete_addresses, **more)(
            gathered
        )
        gathered = flag("pod", "Only this pod, [NAMESPACE/]NAME.", shell_complete=complete_pods, **more)(gathered)
        several: dict[str, Any] = {"command": command, "multiple": True, "shell_complete": complete_interfaces}
        return flag("interface", "Only this interface (can be repeated).", **several)(gathered)

    return decorate


def select(endpoints: Iterable[Endpoint], selector: Selector) -> set[int]:
    """The interface indexes of the selected endpoints.

    An ambiguous pod name is wrong usage (exit 2, with the list); nothing found is a failure (exit 1).
    """
    every = list(endpoints)
    chosen: list[list[Endpoint]] = []
    if selector.interfaces:
        chosen.append([found for name in selector.interfaces for found in _by_interface(every, name)])
    if selector.pod is not None:
        chosen.append([by_pod(every, selector.pod)])
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


def by_pod(every: Sequence[Endpoint], wanted: str, option: str = "--pod") -> Endpoint:
    """The pod [NAMESPACE/]NAME among these endpoints, which was given as this option."""
    namespace, slash, pod = wanted.rpartition("/")
    if not pod or "/" in namespace or (slash and not namespace):
        raise click.UsageError(f"{option} {printable(wanted)} is not [NAMESPACE/]NAME")
    found = [one for one in every if one.pod == pod and (not slash or one.namespace == namespace)]
    if len(found) > 1:
        names = ", ".join(sorted(f"{one.title} ({one.interface})" for one in found))
        sentence = f"{option} {wanted} fits several: {names}; add the namespace, or use --interface"
        raise click.UsageError(printable(sentence))
    if not found:
        named = any(one.pod for one in every)
        hint = "is it on another node?" if named else "no pod names are known here; use --ip or --interface"
        raise click.ClickException(f"no pod {wanted} on this node: {hint}")
    return found[0]


def _by_ip(every: Sequence[Endpoint], wanted: str) -> Endpoint:
    try:
        address = str(ipaddress.ip_address(wanted))
    except ValueError:
        raise click.UsageError(f"--ip {wanted} is not an IP address") from None
    found = [one for one in every if address in one.addresses]
    if not found:
        raise click.ClickException(f"no endpoint on this node has the address {address}: is it on another node?")
    return found[0]
