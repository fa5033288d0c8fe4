"""`counters`: the table that `calico-node -bpf counters dump` prints, with the pod's name on it and droppers first."""

import json
from collections.abc import Sequence

import click

from exporter.calico.counters import Layout
from exporter.calico.hooks import direction, hook_name
from exporter.cli.node import take_settled
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.node.endpoints import UNKNOWN, WORKLOAD
from exporter.snapshot.by_endpoint import EndpointCounters, counters_by_endpoint, dropped_in_all
from exporter.snapshot.take import Snapshot


@click.command("counters", short_help="Show who drops and accepts what, droppers first.")
@selector_options("counters")
@flag("nonzero", "Leave out rows and endpoints that are zero.", command="counters", is_flag=True)
@flag(
    "output",
    "How to print it.",
    command="counters",
    type=click.Choice(["table", "json"]),
    default="table",
    short="-o",
)
@node_options()
def command(node: NodeOptions, selector: Selector, output: str, *, nonzero: bool) -> None:
    """Show packets and flows by endpoint, reason and direction, those who drop most first.

    Without --interface, --pod or --ip it shows every endpoint of the node.
    """
    snapshot = take_settled(node)
    every = counters_by_endpoint(snapshot)
    chosen = select((one.endpoint for one in every), selector)
    shown = [one for one in every if one.endpoint.ifindex in chosen]
    if output == "json":
        click.echo(json.dumps(as_json(snapshot, shown, nonzero=nonzero), indent=2))
        return
    from exporter.cli.counters_table import print_counters

    print_counters(shown, snapshot.counter_layout, nonzero=nonzero, all_endpoints=selector == Selector())


def as_json(snapshot: Snapshot, shown: Sequence[EndpointCounters], *, nonzero: bool) -> dict[str, object]:
    """The same facts for a program: numbers as they were read, hooks without an entry as null."""
    layout, choice = snapshot.counter_layout, snapshot.counter_versions.choice
    listed = [one for one in shown if not nonzero or any(map(any, one.hooks.values()))]
    return {
        "map": choice.live.name if choice.live else None,
        "chosen_by": choice.chosen_by,
        "slots": len(layout.slots),
        "endpoints": [_endpoint_json(one, layout, nonzero=nonzero) for one in listed],
        "dropped": dropped_in_all(shown, layout),
    }


def _endpoint_json(one: EndpointCounters, layout: Layout, *, nonzero: bool) -> dict[str, object]:
    endpoint = one.endpoint
    workload = endpoint.kind == WORKLOAD
    hooks = {}
    for hook in sorted({0, 1, 2} | one.hooks.keys()):
        row = one.hooks.get(hook)
        hooks[hook_name(hook)] = row and {
            "direction": "" if endpoint.kind == UNKNOWN else direction(hook, workload=workload),
            "counters": [
                {"slot": slot.number, "category": slot.category, "reason": slot.reason, "value": value}
                for slot, value in zip(layout.slots, row, strict=True)
                if value or not nonzero
            ],
        }
    return {
        "interface": endpoint.interface,
        "ifindex": endpoint.ifindex,
        "kind": endpoint.kind,
        "namespace": endpoint.namespace,
        "pod": endpoint.pod,
        "addresses": list(endpoint.addresses),
        "dropped": one.dropped(layout),
        "hooks": hooks,
    }
