"""The endpoints of the node, or of a bundle on the same line, that a shell can offer for the value of a flag.

They are those that the commands choose from. What takes time and is not needed for them is not read: counters, policy
files, the API server.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from exporter.cli.options import NodeOptions, taken_node_options
from exporter.node.endpoints import Endpoint

# What every shell takes as it is: a bundle from elsewhere can hold names that move the cursor, or are a command.
_PLAIN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:@+/-]*", re.ASCII)


def complete_interfaces(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of interfaces."""
    return _fitting(incomplete, (one.interface for one in _endpoints(context)))


def complete_pods(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pods as NAMESPACE/NAME, and who has begun to type a NAME gets names too."""
    pods = [one for one in _endpoints(context) if one.pod]
    names = [one.pod for one in pods] if incomplete else []
    return _fitting(incomplete, [*names, *(one.title for one in pods)])


def complete_addresses(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The addresses of endpoints."""
    return _fitting(incomplete, (address for one in _endpoints(context) for address in one.addresses))


def _fitting(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    fitting = {name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)}
    return [CompletionItem(name) for name in sorted(fitting)]


def _endpoints(context: click.Context) -> Iterable[Endpoint]:
    from exporter.cli.node import open_source, settings_of
    from exporter.snapshot.reading import take_snapshot

    options = _options(context)
    source, memory = open_source(options)
    snapshot = take_snapshot(source, settings_of(options), memory, {"endpoints"})
    if options.bundle is None:
        snapshot.ifstate.get()  # raises for whoever may not read Calico's maps: the command would refuse them too
    return snapshot.endpoints.get().by_index.values()


def _options(context: click.Context) -> NodeOptions:
    options = taken_node_options(dict(context.params), bundles=2)
    bundle = options.bundle and Path(os.path.expandvars(options.bundle)).expanduser()  # the shell has not done it yet
    return replace(options, bundle=bundle, kubernetes=False)
