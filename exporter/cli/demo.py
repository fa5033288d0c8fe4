"""`demo`: a small node with real packets and real drops, and the exporter inside it, to try everything on."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.cli.options import NodeOptions, flag
from exporter.cli.serve import ServeOptions, serve

if TYPE_CHECKING:
    from exporter.demo.prometheus import Prometheus

_TRY = """
The demo node is up: four pods that send, a policy that drops, and the exporter. Try, in another terminal:

  curl -s http://localhost:{port}/metrics | grep dropped | grep -v ' 0$'

look at http://localhost:{port}/ in a browser,{prometheus}
and as if on the node, with a name for its exporter:

  node() {{ ip netns exec {namespace} {program} "$@" --bpf.fs {bpf_fs} --calico.run-dir {run_dir}; }}
  node counters --nonzero --top 2
  node counters --watch
  node policy --pod shop/cart
  node why --pod shop/frontend --for 5

Ctrl-C ends it and removes everything.
"""
_PROMETHEUS = """
or see the alerts at {address}/alerts: within 15 minutes two of them fire,
"""


@click.command("demo", short_help="Build a small node with real drops, to try it on.")
@flag(
    "web.listen-address",
    "Address to listen on, HOST:PORT, in the machine's own network.",
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
    from exporter.demo.namespace import enter_namespace
    from exporter.demo.node import Node
    from exporter.web.server import open_listener

    set_up_logging("warning", "logfmt")
    # Opened before the process moves into the node's namespace: a socket stays where it was made.
    listener = open_listener(web_listen_address)
    node, prometheus = Node(), None
    try:
        node.build()
        node.send_forever()
        options = NodeOptions(node.bpf.path, "auto", node.run_dir, ("cali",), None, None, node="demo")
        where = {"namespace": node.namespace, "bpf_fs": options.bpf_fs, "run_dir": options.run_dir}
        port, program = listener.getsockname()[1], Path(sys.argv[0]).resolve()
        said, prometheus = _start_prometheus(node.state, port, rules)
        click.echo(_TRY.format(port=port, program=program, prometheus=said, **where))
        enter_namespace(node.namespace)
        serve(options, [listener], ServeOptions())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        if prometheus:
            prometheus.end()
        if node.close():
            click.echo("The demo node is removed.")


def _start_prometheus(folder: Path, port: int, rules: Path | None) -> "tuple[str, Prometheus | None]":
    """What to say of the Prometheus that scrapes this port, and that Prometheus."""
    from exporter.demo.prometheus import is_installed, start_prometheus

    if rules is None:
        return "", None
    if not is_installed():
        return "\n(no Prometheus is installed: with one you would see the alerts too)\n", None
    one = start_prometheus(folder / "prometheus", f"localhost:{port}", rules)
    return _PROMETHEUS.format(address=one.address), one
