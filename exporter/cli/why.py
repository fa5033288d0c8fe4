"""`why`: watches an endpoint and explains what dropped its packets and which rules may have done it.

For scripts, it exits 0 when nothing was dropped and 3 when something was.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

import click
from click.core import ParameterSource

from exporter.cli.capture import packets_json, watch
from exporter.cli.conntrack import denied_json
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.cli.snapshots import two_snapshots
from exporter.diagnosis.denied_rules import policies_of, with_rulings
from exporter.diagnosis.explain import LAST_PARTS, PARTS, Explanation, explain
from exporter.diagnosis.packet_report import PacketReport, lines
from exporter.diagnosis.sentences import DROP, HEADLINE, PROBLEM, sentences
from exporter.node.endpoints import Endpoint
from exporter.printable import say
from exporter.quantities import Duration, format_duration
from exporter.snapshot.snapshot import Snapshot

LOSES_PACKETS = 3
_STYLES = {HEADLINE: "bold", DROP: "red", PROBLEM: "red", "deny": "red", "allow": "green", "pass": "yellow"}


@click.command("why", short_help="Explain why an endpoint loses packets.")
@selector_options("why")
@flag("for", "How long to watch; Ctrl-C ends it sooner.", command="why", type=Duration(), default="30s")
@flag("packets", "Also capture the endpoint's packets, and show whose were denied.", command="why", is_flag=True)
@flag("output", "Output format.", command="why", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options(bundles=2)
def command(node: NodeOptions, selector: Selector, output: str, *, packets: bool, **given: float) -> None:
    """Watch one endpoint and explain which of its packets were dropped, for which reason, and which rules counted then.

    With --packets it also says whose packets were denied, and by which rule: it needs CAP_NET_RAW, and reads headers
    alone. With two bundles it explains the time between them, with one everything since its counters were created.
    Exits 0 when nothing was dropped, 3 when something was.
    """
    seconds = given["for"]
    if selector == Selector():
        raise click.UsageError("give --pod, --ip or --interface")
    if node.bundle is None:
        say(f"watching for {format_duration(seconds)}; Ctrl-C ends it sooner", err=True)
    elif click.get_current_context().get_parameter_source("for") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--for watches a node: two bundles have their own time")
    if packets and node.bundle is not None:
        raise click.UsageError("--packets captures on the node itself: a bundle has no packets")
    seen = watch(node, seconds, partial(_one, selector=selector)) if packets else None
    before, after = (seen.before, seen.after) if seen else _two_snapshots(node, seconds, selector)
    explanation = explain(before, after, _endpoint(before, after, selector))
    explanation = replace(explanation, denied=with_rulings(after, explanation.denied, node.prefixes))
    found = seen.report(explanation, node.prefixes) if seen else None
    passed = after.seconds_since(before) if before else None
    if output == "json":
        click.echo(json.dumps(_json(explanation, found, passed, after), indent=2))
    else:
        for line, about in _lines(explanation, found, passed):
            say(line, _STYLES.get(about, ""))
    if explanation.loses_packets or (found and found.loses_packets):
        raise click.exceptions.Exit(LOSES_PACKETS)


def _two_snapshots(node: NodeOptions, seconds: float, selector: Selector) -> tuple[Snapshot | None, Snapshot]:
    def policies(snapshot: Snapshot) -> set[str]:
        with suppress(click.ClickException):  # it may be gone
            return policies_of(snapshot, _one(snapshot, selector))
        return set()

    choose = partial(_one, selector=selector)
    return two_snapshots(node, seconds, PARTS, choose, last=LAST_PARTS, policies_of=policies)


def _lines(explanation: Explanation, found: PacketReport | None, seconds: float | None) -> Iterator[tuple[str, str]]:
    yield from sentences(explanation, seconds)
    if found:
        yield "", ""
        yield from ((line, "") for line in lines(found))


def _endpoint(before: Snapshot | None, after: Snapshot, selector: Selector) -> Endpoint:
    try:
        return _one(after, selector)
    except click.ClickException:
        if before is None:
            raise
        return _one(before, selector)  # it may have vanished


def _one(snapshot: Snapshot, selector: Selector) -> Endpoint:
    chosen = select(snapshot.endpoints.get().by_index.values(), selector)
    if len(chosen) > 1:
        raise click.UsageError(f"why explains one endpoint, and {len(chosen)} fit: name one with --interface")
    return snapshot.endpoints.get().of(chosen.pop())


def _json(
    explanation: Explanation, found: PacketReport | None, seconds: float | None, after: Snapshot
) -> dict[str, object]:
    from exporter.cli.counters_changes import counted_json

    def identity(endpoint: Endpoint) -> dict[str, object]:
        kept = ("interface", "ifindex", "kind", "namespace", "pod")
        return {name: getattr(endpoint, name) for name in kept}

    change = explanation.change
    return {
        **identity(explanation.endpoint),
        "window": explanation.window,
        "seconds": seconds,
        "loses_packets": explanation.loses_packets or bool(found and found.loses_packets),
        "counted": counted_json(change, after.counters.get().layout, seconds) if change else [],
        "drops": [asdict(drop) for drop in explanation.drops],
        "rules": [asdict(rule) for rule in explanation.rules],
        "problems": list(explanation.problems),
        "notes": list(explanation.notes),
        "others": [
            {**identity(one.endpoint), "direction": one.direction, "packets": one.packets, "reasons": dict(one.reasons)}
            for one in explanation.others
        ],
        "black_hole": list(explanation.black_hole),
        "uncounted": explanation.uncounted,
        "denied_flows": [denied_json(one) for one in explanation.denied],
        **({"packets": packets_json(found)} if found else {}),
        "text": [line for line, _ in _lines(explanation, found, seconds)],
    }
