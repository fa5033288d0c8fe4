"""`why`: watches an endpoint and explains what dropped its packets and which rules may have done it.

For scripts, it exits 0 when nothing was dropped and 3 when something was.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

import click
from click.core import ParameterSource

from exporter.cli.as_json import denied_json, endpoint_json
from exporter.cli.capture import BUNDLE_PARTS, packets_json, policies_with, recorded_flows, recorded_report, watch
from exporter.cli.counters_changes import counted_json
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.cli.snapshots import two_snapshots
from exporter.diagnosis.denied_rules import with_rulings
from exporter.diagnosis.explain import LAST_PARTS, PARTS, Explanation, explain
from exporter.diagnosis.packet_report import PacketReport, lines
from exporter.diagnosis.sentences import DROP, HEADLINE, PROBLEM, sentences
from exporter.node.endpoints import Endpoint, Endpoints
from exporter.printable import say, say_json
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

    With --packets it also says whose packets were denied, and by which rule: it needs CAP_NET_RAW, and reads only
    headers. With two bundles it explains the time between them, with one everything since its counters were created; if
    the last was made with --packets, it also says whose packets were denied then.
    Exits 0 when nothing was dropped, 3 when something was.
    """
    seconds = given["for"]
    if selector == Selector():
        raise click.UsageError("give --pod, --ip or --interface")
    if node.bundle is None:
        say(f"watching for {format_duration(seconds)}; Ctrl-C ends it sooner", err=True)
    elif click.get_current_context().get_parameter_source("for") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--for watches a node: two bundles have their own time")
    seen = watch(node, seconds, partial(_one, selector=selector)) if packets and node.bundle is None else None
    before, after = (seen.before, seen.after) if seen else _two_snapshots(node, seconds, selector)
    explanation = explain(before, after, _endpoint(before, after, selector))
    explanation = replace(explanation, denied=with_rulings(after, explanation.denied))
    if node.bundle is not None:
        found = recorded_report(after, explanation.endpoint, wanted=packets)
    else:
        found = seen.report(explanation) if seen else None
    passed = after.seconds_since(before) if before else None
    shown = [(line, _STYLES.get(about, "")) for line, about in _lines(explanation, found, passed)]
    if output == "json":
        text = {"text": [line for line, _ in shown], "styles": [style for _, style in shown]}
        say_json({**_json(explanation, found, passed, after), **text})
    else:
        for line, style in shown:
            say(line, style)
    if explanation.loses_packets or (found and found.loses_packets):
        raise click.exceptions.Exit(LOSES_PACKETS)


def _two_snapshots(node: NodeOptions, seconds: float, selector: Selector) -> tuple[Snapshot | None, Snapshot]:
    def policies(snapshot: Snapshot) -> set[str]:
        with suppress(click.ClickException):  # it may be gone
            endpoint = _one(snapshot, selector)
            return policies_with(snapshot, recorded_flows(snapshot, endpoint), endpoint)
        return set()

    def flows_of(endpoints: Endpoints) -> Collection[str]:
        with suppress(click.ClickException):
            return _one_of(endpoints, selector).addresses
        return ()

    choose = partial(_one, selector=selector)
    if node.bundle is None:
        return two_snapshots(node, seconds, PARTS, choose, last=LAST_PARTS, policies_of=policies)
    last = LAST_PARTS | BUNDLE_PARTS
    return two_snapshots(node, seconds, PARTS, choose, last=last, policies_of=policies, flows_of=flows_of)


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
    return _one_of(snapshot.endpoints.get(), selector)


def _one_of(endpoints: Endpoints, selector: Selector) -> Endpoint:
    chosen = select(endpoints.by_index.values(), selector)
    if len(chosen) > 1:
        raise click.UsageError(f"why explains one endpoint, and {len(chosen)} fit: name one with --interface")
    return endpoints.of(chosen.pop())


def _json(
    explanation: Explanation, found: PacketReport | None, seconds: float | None, after: Snapshot
) -> dict[str, object]:
    change = explanation.change
    return {
        **endpoint_json(explanation.endpoint),
        "window": explanation.window,
        "seconds": seconds,
        "loses_packets": explanation.loses_packets or bool(found and found.loses_packets),
        "counted": counted_json(change, after.counters.get().layout, seconds) if change else [],
        "drops": [asdict(drop) for drop in explanation.drops],
        "rules": [asdict(rule) for rule in explanation.rules],
        "problems": list(explanation.problems),
        "notes": list(explanation.notes),
        "others": [
            {
                **endpoint_json(one.endpoint),
                "direction": one.direction,
                "packets": one.packets,
                "reasons": dict(one.reasons),
            }
            for one in explanation.others
        ],
        "black_hole": list(explanation.black_hole),
        "uncounted": explanation.uncounted,
        "denied_flows": [denied_json(one) for one in explanation.denied],
        **({"packets": packets_json(found)} if found else {}),
    }
