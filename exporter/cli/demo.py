"""`demo`: a small node with real packets and drops, with the exporter running on it, to try everything out."""

import errno
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import NodeOptions, flag

if TYPE_CHECKING:
    from exporter.demo.node import Node
    from exporter.demo.prometheus import Prometheus

_TRY = """
The demo node is up: four pods that send packets, policies that deny some of
them, and the exporter.
Try this in another terminal, from top to bottom.

What the exporter counts, as Prometheus reads it:

  curl -s http://localhost:{port}/metrics | grep '^calico_bpf_dropped' | grep -v ' 0$'

The commands, as if on the node; first a short name for them:

  on_node() {{ {on_node} "$@"; }}

Which pods drop packets, for which reasons, and how many a second (until
Ctrl-C)?

  on_node counters --nonzero
  on_node counters --watch

Why does data/db drop packets, and whose? This watches for 5 seconds:

  on_node why --pod data/db --for 5

Which rule decides about such a packet, and which other rules does the pod have?

  on_node trace --from ops/probe --to data/db --protocol udp --port 9999
  on_node policy --pod data/db

The node's page, which refreshes itself: http://localhost:{port}/
{prometheus}
Ctrl-C here ends the demo and removes everything.
"""
_PROMETHEUS = """
The alerts, from a Prometheus beside the demo (none at first; two fire after
16 minutes):

  {ask}
"""
_NO_PROMETHEUS = """
(no Prometheus is installed: with one you would see the alerts too)
"""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("demo", short_help="Build a small node with real drops.")
@flag(
    "web.listen-address",
    "Address to listen on, HOST:PORT, in the host's network.",
    command="demo",
    default="localhost:10042",
)
@flag(
    "rules",
    "Also start a Prometheus, if one is installed, with the rules in this folder.",
    command="demo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
def command(web_listen_address: str, rules: Path | None) -> None:
    """Build a small node in network namespaces, send packets, serve its metrics; Ctrl-C removes it. Needs root."""
    from exporter.cli.logs import set_up_logging
    from exporter.demo.node import Node

    set_up_logging("warning", "logfmt")
    _stop_on_signals()
    node = Node()
    try:
        node.claim()
        # Before entering the node's namespace: a socket stays in the namespace that created it.
        _run(node, _listener(web_listen_address), rules)
    except KeyboardInterrupt:
        pass  # interrupted before serving, which is not an error
    finally:
        for number in _STOPS:  # a second signal must not interrupt the cleanup
            signal.signal(number, signal.SIG_IGN)
        if node.close():
            with suppress(OSError):  # the terminal may be closed
                click.echo("The demo node is removed.")


def _run(node: "Node", listener: socket.socket, rules: Path | None) -> None:
    """Builds the node and serves its metrics until a signal arrives."""
    from exporter.cli.serving import ServeOptions, serve
    from exporter.demo.namespace import enter_namespace

    node.build()
    node.send_forever()
    port = listener.getsockname()[1]
    hint, prometheus = _start_prometheus(node.state, port, rules)
    try:
        # Until the server handles them: an exception in the middle of an import can be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        click.echo(_TRY.format(port=port, prometheus=hint, on_node=_on_node(node)))
        enter_namespace(node.namespace)
        options = NodeOptions(node.bpf.path, "auto", node.run_dir, ("cali",), None, None, node="demo")
        serve(options, [listener], ServeOptions())
    finally:
        if prometheus:
            prometheus.end()


def _stop_on_signals() -> None:
    """SIGTERM, and a closed terminal's SIGHUP, interrupt as Ctrl-C does; so does Ctrl-C where a shell ignores it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    # As SIGTERM, which the server handles.
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    if sys.stdout.isatty():
        threading.Thread(target=_stop_when_closed, args=(sys.stdout.fileno(),), daemon=True).start()


def _stop_when_closed(terminal: int) -> None:
    # Where make is the session leader, only make gets SIGHUP.
    closed = select.poll()
    closed.register(terminal, 0)
    closed.poll()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _listener(address: str) -> socket.socket:
    from exporter.web.transport.listener import ListenError, open_listener

    try:
        return open_listener(address)
    except ListenError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            free = "take a free port with make demo PORT=0 (--web.listen-address localhost:0)"
            raise ListenError(f"{error}: {free}") from error
        raise


def _on_node(node: "Node") -> str:
    """The shell command that runs this program as if on the node; it sets variables, so that any flags can follow."""
    where = [f"CALICO_BPF_EXPORTER_BPF_FS={node.bpf.path}", f"CALICO_BPF_EXPORTER_CALICO_RUN_DIR={node.run_dir}"]
    sudo = ["sudo"] if "SUDO_UID" in os.environ else []  # the other terminal is the user's, not root's
    inside = ["ip", "netns", "exec", node.namespace, "env", *where, str(Path(sys.argv[0]).resolve())]
    return shlex.join(sudo + inside)


def _start_prometheus(folder: Path, port: int, rules: Path | None) -> "tuple[str, Prometheus | None]":
    """The hint about the Prometheus that scrapes this port, and that Prometheus."""
    from exporter.demo.prometheus import is_installed, start_prometheus

    if rules is None:
        return "", None
    if not is_installed():
        return _NO_PROMETHEUS, None
    one = start_prometheus(folder / "prometheus", f"localhost:{port}", rules)
    return _PROMETHEUS.format(ask=_alerts(one.address)), one


def _alerts(address: str) -> str:
    """The command that shows the alerts. Debian's Prometheus serves its pages only from its package's directory."""
    promtool = shutil.which("promtool")
    if promtool:
        return shlex.join([str(Path(promtool).resolve()), "query", "instant", address, "ALERTS"])
    return f"curl -s {address}/api/v1/alerts"
