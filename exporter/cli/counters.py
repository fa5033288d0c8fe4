"""`counters`: the table of `calico-node -bpf counters dump`, with pod names and top droppers first."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from exporter.calico.counters import Layout
from exporter.calico.hooks import HOOKS, hook_name
from exporter.cli.as_json import endpoint_json
from exporter.cli.counters_table import print_counters
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, Wanted, select, selector_options
from exporter.cli.snapshots import one_snapshot
from exporter.diagnosis.counters import PARTS, EndpointCounters, counters_by_endpoint, dropped_in_all
from exporter.printable import say_json
from exporter.quantities import Duration
from exporter.snapshot.snapshot import Snapshot

_flag = partial(flag, command="counters")


@click.command("counters", short_help="Show accepted and dropped packets, top droppers first.")
@selector_options("counters")
@_flag("nonzero", "Hide zero rows and endpoints.", is_flag=True)
@_flag("output", "Output format.", type=click.Choice(["table", "json"]), default="table", short="-o")
@_flag(
    "diff",
    "Show only what is counted within this time (10s if not given).",
    type=Duration(),
    is_flag=False,
    flag_value="10s",
    default=None,
)
@_flag(
    "watch",
    "Show counts since the start and current rates, refreshed at this interval (2s if not given); a pipe gets one line "
    "per counter and interval.",
    type=Duration(),
    is_flag=False,
    flag_value="2s",
    default=None,
)
@_flag("top", "Show the top N endpoints by drops.", type=click.IntRange(1), default=None)
@node_options(bundles=2)
def command(node: NodeOptions, selector: Selector, output: str, **given: Any) -> None:
    """Show packets and flows by endpoint, reason and direction, top droppers first.

    Without --interface, --pod or --ip it shows every endpoint of the node. With --diff or --watch, or with two bundles,
    it shows only what was counted between two snapshots.
    """
    diff, watch, wanted = given["diff"], given["watch"], Wanted(selector, given["top"], output)
    if diff is not None and watch is not None:
        raise click.UsageError("--diff and --watch are mutually exclusive")
    if node.bundle and watch is not None:
        raise click.UsageError("--watch needs a running node, not bundles")
    if watch is not None:
        from exporter.cli.counters_compare import show_watch

        show_watch(node, wanted, watch)
    elif diff is not None or node.before is not None:
        from exporter.cli.counters_compare import show_difference

        show_difference(node, wanted, diff or 0.0)
    else:
        _now(node, wanted, nonzero=given["nonzero"])


def _now(node: NodeOptions, wanted: Wanted, *, nonzero: bool) -> None:
    snapshot = one_snapshot(node, PARTS)
    every = counters_by_endpoint(snapshot)
    chosen = select((one.endpoint for one in every), wanted.selector)
    shown = [one for one in every if one.endpoint.ifindex in chosen]
    selected = len(shown)
    if wanted.top is not None:
        shown = [one for one in shown if one.dropped(snapshot.counters.get().layout)][: wanted.top]
    if wanted.output == "json":
        say_json(_json(snapshot, shown, nonzero=nonzero))
        return
    everyone = wanted.selector == Selector()
    left_out = selected - len(shown)
    print_counters(shown, snapshot.counters.get().layout, nonzero=nonzero, all_endpoints=everyone, left_out=left_out)


def _json(snapshot: Snapshot, shown: Sequence[EndpointCounters], *, nonzero: bool) -> dict[str, object]:
    """The same data as JSON: values as they were read, and null for hooks without an entry."""
    layout, choice = snapshot.counters.get().layout, snapshot.counter_map.get().choice
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
    hooks = {}
    for hook in sorted({*HOOKS, *one.hooks}):
        row = one.hooks.get(hook)
        hooks[hook_name(hook)] = row and {
            "direction": endpoint.direction(hook),
            "counters": [
                {"slot": slot.number, "category": slot.category, "reason": slot.reason, "value": value}
                for slot, value in zip(layout.slots, row, strict=True)
                if value or not nonzero
            ],
        }
    return {
        **endpoint_json(endpoint),
        "addresses": list(endpoint.addresses),
        "dropped": one.dropped(layout),
        "hooks": hooks,
    }
