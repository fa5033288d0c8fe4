"""The plugin's commands: each finds whom to ask, says so, and hands over to the exporter's command of the same name.

An error is one sentence on standard error and exit code 1; wrong usage is exit code 2; else the exit code is that of
the exporter's command.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from exporter import __version__
from exporter.kubectl.flags import (
    PassedOn,
    Time,
    complete_nodes,
    complete_pods,
    exporters_of,
    kubectl_flags,
    kubectl_of,
    passed_on,
    words_of,
)
from exporter.kubectl.kubectl import KubectlError
from exporter.kubectl.targets import NoTarget, Target, target_of_node, target_of_pod
from exporter.printable import colours, printable, say, wrap_error

PROGRAM = "kubectl calico-bpf"
_HELP = {"help_option_names": ["-h", "--help"]}


class Sentences(click.Group):
    """Makes one sentence of what stands in the way."""

    def invoke(self, ctx: click.Context) -> Any:  # whatever the command returns
        """Runs the command; the plugin's own errors become a sentence."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            wrap_error(error)
            raise
        except (KubectlError, NoTarget) as error:
            said = click.ClickException(printable(str(error)))
            wrap_error(said)
            raise said from error


@click.group(PROGRAM, cls=Sentences, context_settings=_HELP)
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Calico's eBPF counters of a pod, wherever in the cluster it runs.

    Each command finds the pod's node and runs the exporter's own command there, through kubectl exec: that takes the
    rights to get the pod, to list the exporter's pods and to exec into them. POD is [NAMESPACE/]NAME.
    """


def asked(name: str, about: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command about POD, or with --node about a node, that takes flags for the exporter's command `name`."""

    def decorate(function: Callable[..., None]) -> click.Command:
        node = click.option("--node", help="Ask about this whole node instead.", shell_complete=complete_nodes)
        words = click.argument("words", nargs=-1, metavar="POD [-- FLAGS]", shell_complete=complete_pods)
        function = words(passed_on(name)(node(kubectl_flags(click.pass_context(function)))))
        return program.command(name, short_help=about, context_settings=_HELP)(function)

    return decorate


@asked("counters", "Show what a pod drops and accepts.")
def counters(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Show packets and flows of a pod by reason and direction.

    With --diff or --watch only what was counted meanwhile.
    """
    _ask(context, words)


@asked("policy", "Show the rules of a pod and their hits.")
def policy(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Show the tiers, policies and rules of a pod in the order in which a packet meets them, with their hits."""
    _ask(context, words)


@asked("check", "Say what is missing on a pod's node.")
def check(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Look at everything the exporter needs on a pod's node, with a remedy for what is missing."""
    _ask(context, words, own_interface=False)


@asked("why", "Say why a pod loses packets.")
@click.option(
    "--to",
    "receiver",
    metavar="POD",
    help="Watch this pod too; Ctrl-C then ends it without a result.",
    shell_complete=complete_pods,
)
def why(context: click.Context, /, words: Sequence[str], receiver: str | None, **_: Any) -> None:
    """Watch a pod and explain which of its packets were dropped, for which reason, and which rules counted then.

    With --to it watches two pods at once, each on its own node, and says on whose side packets were lost. Exits 0 when
    nothing was dropped, 3 when something was.
    """
    if receiver is None:
        _ask(context, words)
    else:
        from exporter.kubectl.two_pods import explain_two

        if context.params["node"] or len(words) != 1:
            raise click.UsageError("--to takes one POD before it, and no --node and no flags after --")
        kubectl, exporters, namespace = kubectl_of(context), exporters_of(context), context.params["namespace"]
        places = [target_of_pod(kubectl, exporters, pod, namespace) for pod in (words[0], receiver)]
        if places[0].pod == places[1].pod:
            raise click.UsageError("--to names another pod than POD: one alone is explained without it")
        explain_two(kubectl, *places, watch=context.params["for"], output=context.params["output"])


@program.command("top", short_help="Show who drops most in the whole cluster.", context_settings=_HELP)
@click.option("--for", "seconds", help="How long to look.", default="10s", show_default=True, type=Time())
@click.option("--top", "most", help="How many endpoints.", type=click.IntRange(1), default=20, show_default=True)
@click.option("--output", "-o", help="How to print it.", type=click.Choice(["table", "json"]), default="table")
@kubectl_flags
@click.pass_context
def top(context: click.Context, /, seconds: str, most: int, output: str, **_: Any) -> None:
    """Look at all nodes with an exporter and show the endpoints that dropped most, with -n those of one namespace.

    Exits 1 when a node did not answer; the others are still shown.
    """
    from exporter.kubectl.top import show_top

    show_top(kubectl_of(context), exporters_of(context), seconds, most, context.params["namespace"], output)


@program.command("bundle", short_help="Fetch a node's facts in one file.", context_settings=_HELP)
@click.option("--node", help="The node, instead of a pod on it.", shell_complete=complete_nodes)
@click.argument("words", nargs=-1, required=True, metavar="[POD] FILE", shell_complete=complete_pods)
@kubectl_flags
@click.pass_context
def bundle(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Write the maps, links, routes and Calico's files of a pod's node into FILE here (- is standard output).

    FILE is readable by its owner only. Look at it with calico-bpf-exporter's --bundle FILE.
    """
    from exporter.kubectl.fetch import fetch_bundle

    *pods, file = words
    place = _place(context, pods, own_interface=False)
    _say(place)
    sys.exit(fetch_bundle(kubectl_of(context), place, file))


def _ask(context: click.Context, words: Sequence[str], *, own_interface: bool = True) -> None:
    node = context.params["node"]
    pods, more = ([], words) if node else (words[:1], words[1:])
    if any(not one.startswith("-") for one in more[:1]):
        raise click.UsageError(f"{printable(more[0])!r} is one argument too many; flags to pass on come after --")
    place = _place(context, pods, own_interface=own_interface)
    _say(place)
    selector = ["--pod", str(place.pod)] if place.pod and own_interface else []
    command = [context.command.name or "", *selector, *words_of(context, PassedOn), *more]
    sys.exit(kubectl_of(context).attach(place.exporter, command))


def _place(context: click.Context, pods: Sequence[str], *, own_interface: bool) -> Target:
    kubectl, exporters, node = kubectl_of(context), exporters_of(context), context.params["node"]
    if len(pods) != (0 if node else 1) or (pods and pods[0].startswith("-")):
        raise click.UsageError("say which POD, or which node with --node")
    if node:
        if context.params["namespace"]:
            raise click.UsageError("--node is about every namespace: leave -n out")
        return target_of_node(kubectl, exporters, node)
    return target_of_pod(kubectl, exporters, pods[0], context.params["namespace"], own_interface=own_interface)


def _say(place: Target) -> None:
    whose = f"pod {place.pod} is on node {place.node}" if place.pod else f"node {place.node}"
    say(f"{whose}, asking {place.exporter} there", err=True)


def main() -> None:
    """Runs the plugin with the arguments it was started with."""
    program(prog_name=PROGRAM, color=colours())
