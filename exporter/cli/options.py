"""The options shared by all commands that read the node.

Flags are spelled as in Prometheus exporters; `CALICO_BPF_EXPORTER_<FLAG>` sets them too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

VARIABLE_PREFIX = "CALICO_BPF_EXPORTER"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Where to read the node's data; `before` is the first of two bundles to compare."""

    bpf_fs: Path
    reader: str
    run_dir: Path
    prefixes: tuple[str, ...]
    layout_file: Path | None
    bundle: Path | None
    before: Path | None = None
    kubernetes: bool | None = None
    node: str | None = None
    kubeconfig: Path | None = None


def flag(name: str, about: str, *, command: str | None = None, short: str = "", **more: Any) -> Decorator:
    """A click option for the flag `--<name>`, dots included, with its environment variable.

    The parameter is the name with dots and dashes as underscores; `command` becomes part of the variable's name.
    """
    parameter = name.replace(".", "_").replace("-", "_")
    words = [VARIABLE_PREFIX, *([command] if command else []), parameter]
    declared = f"--{name}"
    if more.pop("switch", False):
        group, _, last = name.rpartition(".")
        declared += f"/--no-{name}" if not group else f"/--no-{group}.{last}"
    more.setdefault("show_default", True)
    names = [declared, parameter, *([short] if short else [])]
    return click.option(*names, help=about, envvar="_".join(words).upper(), show_envvar=True, **more)


def gathering(options: Sequence[Decorator], name: str, take: Callable[[dict[str, Any]], object]) -> Decorator:
    """Declares these options, and hands what `take` takes of what was given for them to the command as `name`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def gathered(**given: Any) -> Any:
            taken = take(given)
            return command(**given, **{name: taken})

        declared: Callable[..., Any] = gathered
        for option in reversed(options):
            declared = option(declared)
        return declared

    return decorate


def node_options(*, bundles: int = 1) -> Decorator:
    """The shared options, handed to the command as one `NodeOptions` called `node`.

    `bundles` is how many it can read instead of the node: none, one, or two to compare.
    """

    def take(given: dict[str, Any]) -> NodeOptions:
        from exporter.cli.logs import set_up_logging

        set_up_logging(given.pop("log_level"), given.pop("log_format"))
        return taken_node_options(given, bundles=bundles)

    return gathering(_shared(bundles=bundles), "node", take)


def taken_node_options(given: dict[str, Any], *, bundles: int) -> NodeOptions:
    """Takes the shared options out of what a command was given. Raises `click.UsageError` for too many bundles."""
    found = given.pop("bundle", ())
    if len(found) > bundles:
        number = "one bundle" if bundles == 1 else f"{bundles} bundles"
        raise click.UsageError(f"--bundle is given {len(found)} times: this command reads {number} at most")
    return NodeOptions(
        bpf_fs=given.pop("bpf_fs"),
        reader=given.pop("bpf_reader"),
        run_dir=given.pop("calico_run_dir"),
        prefixes=_prefixes(given.pop("calico_interface_prefix")),
        layout_file=given.pop("calico_layout_file"),
        kubernetes=given.pop("kubernetes"),
        node=given.pop("kubernetes_node"),
        kubeconfig=given.pop("kubernetes_kubeconfig"),
        bundle=found[-1] if found else None,
        before=found[0] if len(found) == 2 else None,
    )


def _prefixes(given: tuple[str, ...]) -> tuple[str, ...]:
    # In a FelixConfiguration they are one text with commas.
    prefixes = tuple(one.strip() for text in given for one in text.split(","))
    if not all(prefixes):
        raise click.UsageError("--calico.interface-prefix is empty: every interface would be a workload's")
    return prefixes


def _shared(*, bundles: int) -> list[Decorator]:
    path = click.Path(path_type=Path)
    options = [
        flag("bpf.fs", "Mount point of the BPF file system.", type=path, default=Path("/sys/fs/bpf")),
        flag(
            "bpf.reader",
            "Reader of BPF maps (auto = libbpf, else bpftool).",
            type=click.Choice(["auto", "libbpf", "bcc", "bpftool"]),
            default="auto",
        ),
        flag("calico.run-dir", "Calico's run directory.", type=path, default=Path("/var/run/calico")),
        flag(
            "calico.interface-prefix",
            "Prefix of workload interfaces (can be repeated, or several with commas).",
            multiple=True,
            default=("cali",),
        ),
        flag("calico.layout-file", "YAML file with the counter slots of an unpublished build.", type=path),
        flag(
            "kubernetes",
            "Read this node's pods from the API server (default: on in a cluster or with a kubeconfig).",
            switch=True,
            default=None,
        ),
        flag("kubernetes.node", "This node's name in the cluster (default: $NODE_NAME, else the hostname)."),
        flag("kubernetes.kubeconfig", "Path to the kubeconfig file, outside a cluster.", type=path),
    ]
    if bundles:
        about = "Read this bundle instead of the node"
        about += "." if bundles == 1 else "; give an earlier one first to compare them."
        options.append(flag("bundle", about, type=path, multiple=True, show_default=False))
    return [
        *options,
        flag(
            "log.level",
            "Only log messages with the given severity or above.",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
        ),
        flag("log.format", "Output format of log messages.", type=click.Choice(["logfmt", "json"]), default="logfmt"),
    ]
