"""The plugin's commands: each finds its target, prints it and runs the exporter's command of the same name there.

An error is one sentence on standard error and exit code 1; wrong usage is exit code 2; else the exit code is that of
the exporter's command.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import ShellComplete

from exporter import __version__
from exporter.errors import ExporterError
from exporter.kubectl.flags import (
    ForwardedFlag,
    Port,
    Protocol,
    Time,
    complete_ends,
    complete_nodes,
    complete_pods,
    exporters_of,
    forwarded_flags,
    kubectl_flags,
    kubectl_of,
    words_of,
)
from exporter.kubectl.processes import end_all
from exporter.kubectl.targets import Target, target_of_node, target_of_pod
from exporter.printable import colours, printable, say, wrap_error
from exporter.standard_streams import exit_on_unwritable_output, open_closed_streams
from exporter.termination import exit_on_sigterm

PROGRAM = "kubectl calico-bpf"
_HELP = {"help_option_names": ["-h", "--help"]}
# The numbers with which cobra's protocol ends: candidates only, or also files.
_NO_FILES, _FILES = 4, 0


class PluginGroup(click.Group):
    """Turns errors into sentences."""

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command; the plugin's own errors become a sentence."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except click.ClickException as error:
            wrap_error(error)
            raise
        except ExporterError as error:
            raise wrap_error(click.ClickException(printable(str(error)))) from error


@click.group(PROGRAM, cls=PluginGroup, context_settings=_HELP)
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Calico's eBPF counters of a pod, wherever in the cluster it runs.

    Each command finds the pod's node and runs the exporter's own command there, through kubectl exec: that needs
    permission to get the pod, to list the exporter's pods and to exec into them. POD is [NAMESPACE/]NAME.
    """


def pod_command(name: str, about: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command about POD, or with --node about a node, that takes flags for the exporter's command `name`."""

    def decorate(function: Callable[..., None]) -> click.Command:
        node = click.option("--node", help="Target this whole node instead.", shell_complete=complete_nodes)
        words = click.argument("words", nargs=-1, metavar="POD [-- FLAGS]", shell_complete=complete_pods)
        function = words(forwarded_flags(name)(node(kubectl_flags(click.pass_context(function)))))
        return program.command(name, short_help=about, context_settings=_HELP)(function)

    return decorate


@pod_command("counters", "Show a pod's accepted and dropped packets.")
def counters(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Show packets and flows of a pod by reason and direction.

    With --diff or --watch it shows only what is counted meanwhile.
    """
    _run_command(context, words)


@pod_command("policy", "Show a pod's policy rules with hits.")
def policy(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Show the tiers, policies and rules of a pod in the order in which a packet meets them, with their hits."""
    _run_command(context, words)


@pod_command("conntrack", "Show a pod's connections.")
def conntrack(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Show a pod's connection-tracking entries by protocol, state and peer, and the flows that were denied."""
    _run_command(context, words)


@pod_command("check", "Check a pod's node and suggest fixes.")
def check(context: click.Context, /, words: Sequence[str], **_: Any) -> None:
    """Check everything the exporter needs on a pod's node and suggest fixes for what is missing."""
    _run_command(context, words, needs_interface=False)


@pod_command("why", "Explain why a pod loses packets.")
@click.option(
    "--to",
    "receiver",
    metavar="POD",
    help="Watch this pod too; Ctrl-C then ends it without a result.",
    shell_complete=complete_pods,
)
def why(context: click.Context, /, words: Sequence[str], receiver: str | None, **_: Any) -> None:
    """Watch a pod and explain which of its packets were dropped, for which reason, and which rules counted then.

    With --packets it also says whose packets were denied. Peers are named by the cluster's pods, services and nodes, as
    far as you may list them. With --to it watches two pods at once, each on its own node, and says on whose side
    packets were lost. Exits 0 when nothing was dropped, 3 when something was.
    """
    if receiver is None:
        if context.params["node"] and not any(one.startswith(("--interface", "--pod", "--ip")) for one in words):
            raise click.UsageError(
                "why is about one endpoint: name POD, or with --node an interface after --: "
                "kubectl calico-bpf why --node NODE -- --interface NAME"
            )
        from exporter.kubectl.one_pod import explain_one

        target, command = _command_of(context, words, needs_interface=True)
        explain_one(kubectl_of(context), target, command, context.params["output"])
    else:
        from exporter.kubectl.two_pods import explain_two

        if context.params["node"] or context.params["packets"] or len(words) != 1:
            raise click.UsageError("--to takes one POD before it, no --node, no --packets and no flags after --")
        kubectl, exporters, namespace = kubectl_of(context), exporters_of(context), context.params["namespace"]
        targets = [target_of_pod(kubectl, exporters, pod, namespace) for pod in (words[0], receiver)]
        if targets[0].pod == targets[1].pod:
            raise click.UsageError("--to names another pod than POD: one alone is explained without it")
        explain_two(kubectl, *targets, watch=context.params["for"], output=context.params["output"])


@program.command("trace", short_help="Show which rule decides about a packet.", context_settings=_HELP)
@click.argument("source", metavar="FROM", shell_complete=complete_pods)
@click.argument("destination", metavar="TO", shell_complete=complete_ends)
@click.option("--port", help="Destination port, with its protocol: 80/tcp.", type=Port())
@click.option("--protocol", help="Protocol: tcp (default), udp, icmp, icmpv6, sctp or a number.", type=Protocol())
@click.option("--output", "-o", help="Output format.", type=click.Choice(["text", "json"]), default="text")
@forwarded_flags("trace")
@kubectl_flags
@click.pass_context
def trace(context: click.Context, /, source: str, destination: str, **given: Any) -> None:
    """Run the policy programs of both ends' nodes on the first packet of a new flow, and show which rule decides.

    FROM and TO are a pod, [NAMESPACE/]NAME, an address, or TO a service, svc/[NAMESPACE/]NAME. No packet is sent. Exits
    0 when the packet is allowed, 3 when it is denied, 1 when that is not known.
    """
    from exporter.kubectl.ends import end_of
    from exporter.kubectl.trace import described, say_joined, trace_two

    kubectl, exporters = kubectl_of(context), exporters_of(context)
    ends = end_of(kubectl, source, given["namespace"]), end_of(kubectl, destination, given["namespace"])
    if ends[0].ports:
        raise click.UsageError("FROM is a pod or an address: a service sends nothing itself")
    packet = described(given["protocol"], given["port"], ends[1], words_of(context, ForwardedFlag))
    say_joined(trace_two(kubectl, exporters, ends, packet), ends, packet, given["output"])


@program.command("top", short_help="Show the cluster's top endpoints by drops.", context_settings=_HELP)
@click.option("--for", "seconds", help="How long to measure.", default="10s", show_default=True, type=Time())
@click.option("--top", "limit", help="Number of endpoints.", type=click.IntRange(1), default=20, show_default=True)
@click.option("--output", "-o", help="Output format.", type=click.Choice(["table", "json"]), default="table")
@click.option(
    "--parallel", help="Maximum nodes measured at once.", type=click.IntRange(1, 256), default=16, show_default=True
)
@kubectl_flags
@click.pass_context
def top(context: click.Context, /, seconds: str, limit: int, output: str, parallel: int, **_: Any) -> None:
    """Measure all nodes with an exporter and show the top endpoints by drops, with -n those of one namespace.

    Exits 1 when a node did not answer; the others are still shown.
    """
    from exporter.kubectl.top import Wanted, show_top

    wanted = Wanted(seconds, limit, context.params["namespace"], parallel)
    show_top(kubectl_of(context), exporters_of(context), wanted, output)


@program.command("bundle", short_help="Save a node's state to a file.", context_settings=_HELP)
@click.option("--node", help="The node, instead of a pod on it.", shell_complete=complete_nodes)
@click.option("--redact", is_flag=True, help="Replace names, addresses and selectors, so that FILE can be shared.")
@click.option("--packets", help="Also capture the packets of the node's pods for this time.", type=Time())
@click.argument("words", nargs=-1, required=True, metavar="[POD] FILE", shell_complete=complete_pods)
@kubectl_flags
@click.pass_context
def bundle(context: click.Context, /, words: Sequence[str], *, redact: bool, packets: str | None, **_: Any) -> None:
    """Write the maps, links, routes and Calico's files of a pod's node into FILE here (- is standard output).

    FILE is readable by its owner only. Read it with calico-bpf-exporter's --bundle FILE. With --packets it also holds
    the addresses, ports and counts of the flows that the node's pods opened in this time, and no content.
    """
    from exporter.kubectl.fetch import fetch_bundle

    *pods, file = words
    target = _find_target(context, pods, needs_interface=False)
    say(str(target), err=True)
    if packets:
        say(f"capturing for {packets}", err=True)
    flags = [*(["--redact"] if redact else []), *([f"--packets={packets}"] if packets else [])]
    sys.exit(fetch_bundle(kubectl_of(context), target, file, flags))


def _run_command(context: click.Context, words: Sequence[str], *, needs_interface: bool = True) -> None:
    target, command = _command_of(context, words, needs_interface=needs_interface)
    sys.exit(kubectl_of(context).attach(target.exporter, command))


def _command_of(context: click.Context, words: Sequence[str], *, needs_interface: bool) -> tuple[Target, list[str]]:
    node = context.params["node"]
    pods, more = ([], words) if node else (words[:1], words[1:])
    if any(not one.startswith("-") for one in more[:1]):
        raise click.UsageError(f"{printable(more[0])!r} is one argument too many; flags to pass on come after --")
    target = _find_target(context, pods, needs_interface=needs_interface)
    say(str(target), err=True)
    selector = ["--pod", str(target.pod)] if target.pod and needs_interface else []
    return target, [context.command.name or "", *selector, *words_of(context, ForwardedFlag), *more]


def _find_target(context: click.Context, pods: Sequence[str], *, needs_interface: bool) -> Target:
    kubectl, exporters, node = kubectl_of(context), exporters_of(context), context.params["node"]
    if len(pods) != (0 if node else 1) or (pods and pods[0].startswith("-")):
        raise click.UsageError("say which POD, or which node with --node")
    if node:
        if context.params["namespace"]:
            raise click.UsageError("--node is about every namespace: leave -n out")
        return target_of_node(kubectl, exporters, node)
    return target_of_pod(kubectl, exporters, pods[0], context.params["namespace"], needs_interface=needs_interface)


def main() -> None:
    """Runs the plugin with the arguments it was started with."""
    open_closed_streams()
    with exit_on_unwritable_output(), exit_on_sigterm(end_all):
        program(prog_name=PROGRAM, color=colours())


def complete() -> None:
    """Prints the candidates for the last of its arguments: kubectl runs it as `kubectl_complete-calico_bpf` (v1.26).

    The output is cobra's: one candidate per line, then a colon and a number.
    """
    open_closed_streams()
    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(program, {}, PROGRAM, "").get_completions(words, incomplete)
    for item in found:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(f":{_FILES if any(item.type in ('file', 'dir') for item in found) else _NO_FILES}")
