"""Shell completion of endpoints: those of the node, or of the bundle on the same command line.

They are those that the commands select from. Counters, policy files and the API server take time and are not read.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from exporter.cli.options import NodeOptions, taken_node_options
from exporter.diagnosis.trace_packet import INTERFACE
from exporter.node.endpoints import Endpoint

# Safe unquoted in every shell: names in a malicious bundle can contain control characters or commands.
_PLAIN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:@+/-]*", re.ASCII)


def complete_interfaces(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of interfaces."""
    return _candidates(incomplete, (one.interface for one in _endpoints(context)))


def complete_pods(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pods as NAMESPACE/NAME, and as NAME once something has been typed."""
    pods = [one for one in _endpoints(context) if one.pod]
    names = [one.pod for one in pods] if incomplete else []
    return _candidates(incomplete, [*names, *(one.title for one in pods)])


def complete_addresses(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The addresses of endpoints."""
    return _candidates(incomplete, (address for one in _endpoints(context) for address in one.addresses))


def complete_ends(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ends of a flow: pods, and addresses or interfaces once their start has been typed."""
    if incomplete.startswith(INTERFACE):
        names = complete_interfaces(context, parameter, incomplete.removeprefix(INTERFACE))
        return [CompletionItem(f"{INTERFACE}{one.value}") for one in names]
    pods = complete_pods(context, parameter, incomplete)
    return [*pods, *complete_addresses(context, parameter, incomplete)] if incomplete else pods


def _candidates(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    matching = {name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)}
    return [CompletionItem(name) for name in sorted(matching)]


def _endpoints(context: click.Context) -> Iterable[Endpoint]:
    from exporter.cli.snapshots import open_source, settings_of
    from exporter.snapshot.reading import take_snapshot

    options = _options(context)
    source, memory = open_source(options)
    snapshot = take_snapshot(source, settings_of(options), memory, {"endpoints"})
    if options.bundle is None:
        snapshot.ifstate.get()  # raises without permission to read Calico's maps: the command would fail too
    return snapshot.endpoints.get().by_index.values()


def _options(context: click.Context) -> NodeOptions:
    options = taken_node_options(dict(context.params), bundles=2)
    bundle = options.bundle and Path(os.path.expandvars(options.bundle)).expanduser()  # the shell has not expanded it
    return replace(options, bundle=bundle, kubernetes=False)
