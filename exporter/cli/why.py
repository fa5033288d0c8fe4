"""`why`: watches an endpoint and says in sentences what dropped its packets, and which rules can have done it.

Exits 0 when nothing was dropped and 3 when something was, so that a script can ask.
"""

import json
from dataclasses import asdict

import click
from click.core import ParameterSource

from exporter.cli.looks import two_looks
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.durations import Duration, shown
from exporter.node.endpoints import Endpoint
from exporter.printable import say
from exporter.snapshot.explain import Explanation, explain
from exporter.snapshot.sentences import sentences
from exporter.snapshot.take import Snapshot
from exporter.snapshot.timed import TimedLook

LOSES_PACKETS = 3


@click.command("why", short_help="Say why an endpoint loses packets.")
@selector_options("why")
@flag("for", "How long to watch; Ctrl-C ends it sooner.", command="why", type=Duration(), default="30s")
@flag("output", "How to print it.", command="why", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options(bundles=2)
def command(node: NodeOptions, selector: Selector, output: str, **given: float) -> None:
    """Watch one endpoint and explain which of its packets were dropped, for which reason, and which rules counted then.

    Of two bundles it explains the time between them, of one all since its counters began. Exits 0 when nothing was
    dropped, 3 when something was.
    """
    seconds = given["for"]
    if selector == Selector():
        raise click.UsageError("say whose packets: --pod, --ip or --interface")
    if node.bundle is None:
        say(f"watching for {shown(seconds)}; Ctrl-C ends it sooner", err=True)
    elif click.get_current_context().get_parameter_source("for") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--for watches a node: two bundles have their own time")
    before, after = two_looks(node, seconds, lambda look: _one(look, selector))
    explanation = explain(before.snapshot if before else None, after.snapshot, _endpoint(before, after, selector))
    passed = after.seconds_since(before) if before else None
    if output == "json":
        click.echo(json.dumps(_json(explanation, passed, after.snapshot), indent=2))
    else:
        for line, style in sentences(explanation, passed):
            say(line, style)
    if explanation.loses_packets:
        raise click.exceptions.Exit(LOSES_PACKETS)


def _endpoint(before: TimedLook | None, after: TimedLook, selector: Selector) -> Endpoint:
    try:
        return _one(after.snapshot, selector)
    except click.ClickException:
        if before is None:
            raise
        return _one(before.snapshot, selector)  # it may be gone by now


def _one(look: Snapshot, selector: Selector) -> Endpoint:
    chosen = select(look.endpoints.by_index.values(), selector)
    if len(chosen) > 1:
        raise click.UsageError(f"why explains one endpoint, and {len(chosen)} fit: name one with --interface")
    return look.endpoints.of(chosen.pop())


def _json(explanation: Explanation, seconds: float | None, after: Snapshot) -> dict[str, object]:
    from exporter.cli.counters_changes import counted_json

    def whose(endpoint: Endpoint) -> dict[str, object]:
        kept = ("interface", "ifindex", "kind", "namespace", "pod")
        return {name: getattr(endpoint, name) for name in kept}

    change = explanation.change
    return {
        **whose(explanation.endpoint),
        "window": explanation.window,
        "seconds": seconds,
        "loses_packets": explanation.loses_packets,
        "counted": counted_json(change, after.counter_layout, seconds) if change else [],
        "drops": [asdict(drop) for drop in explanation.drops],
        "rules": [asdict(rule) for rule in explanation.rules],
        "problems": list(explanation.problems),
        "notes": list(explanation.notes),
        "others": [
            {**whose(one.endpoint), "direction": one.direction, "packets": one.packets, "reasons": dict(one.reasons)}
            for one in explanation.others
        ],
        "black_hole": list(explanation.black_hole),
        "text": [line for line, _ in sentences(explanation, seconds)],
    }
