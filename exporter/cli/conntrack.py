"""`conntrack`: the entries of connection tracking by pod, protocol and state, and the flows that a pod denied."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import click

from exporter.calico.protocols import protocol_name
from exporter.calico.tables import address_port
from exporter.cli.as_json import denied_json, endpoint_names
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.cli.snapshots import one_snapshot
from exporter.columns import Cell, Column, Row, say_columns
from exporter.diagnosis.conntrack import PARTS, Connections, PeerEntries, StateCount, connections
from exporter.diagnosis.denied import denied_lines, with_port
from exporter.node.endpoints import Endpoints
from exporter.printable import say, say_json
from exporter.quantities import plural
from exporter.snapshot.conntrack import Conntrack

_flag = partial(flag, command="conntrack")
_MAX_PEERS = 20


@click.command("conntrack", short_help="Show connection tracking by pod, protocol and state.")
@selector_options("conntrack")
@_flag("top", "Show the top N endpoints and peers by entries.", type=click.IntRange(1), default=None)
@_flag("output", "Output format.", type=click.Choice(["table", "json"]), default="table", short="-o")
@node_options()
def command(node: NodeOptions, selector: Selector, output: str, top: int | None) -> None:
    """Show how many connection-tracking entries each endpoint has, by protocol and state, and which flows were denied.

    With --interface, --pod or --ip it also shows with whom the endpoint talks, by entries. A flow that a pod of this
    node denied is known for as long as its entry lives: some 60 s for UDP, 20 s for TCP.
    """
    selected = selector != Selector()

    def flows_of(endpoints: Endpoints) -> list[str]:
        chosen = select(endpoints.by_index.values(), selector) if selected else ()
        return [address for index in chosen for address in endpoints.of(index).addresses]

    snapshot = one_snapshot(node, PARTS, flows_of)
    conntrack = snapshot.conntrack.get()
    chosen = select(snapshot.endpoints.get().by_index.values(), selector)
    found = connections(snapshot, chosen, peers=selected)
    if output == "json":
        say_json(_json(found, conntrack, top))
    else:
        _print(found, conntrack, top, selected=selected)


def _print(found: Connections, conntrack: Conntrack, top: int | None, *, selected: bool) -> None:
    rows: list[Row] = []
    for one in islice(found.endpoints, top):
        rows += _rows(one.endpoint.title, one.entries, one.states)
    if not selected:
        rows += _rows("all entries of the node", found.total, found.states)
    columns = Column("endpoint"), Column("protocol"), Column("state"), Column("entries", right=True)
    if rows:
        say_columns(columns, rows)
    else:
        say("no entry has an address of this endpoint")
    if found.peers:
        say("")
        _print_peers(found.peers, top or _MAX_PEERS)
    if found.denied:
        say("")
        for line in denied_lines(found.denied[:top]):
            say(line, "" if line.startswith("Connection") else "red")
    _print_limits(found, conntrack, top)


def _rows(title: str, entries: int, states: Sequence[StateCount]) -> Iterator[Row]:
    yield [Cell(title, "bold"), Cell(""), Cell(""), Cell(str(entries), "bold")]
    for one in states:
        yield [Cell(""), Cell(protocol_name(one.protocol)), Cell(one.state), Cell(str(one.entries))]


def _print_peers(peers: Sequence[PeerEntries], limit: int) -> None:
    columns = Column("peer"), Column("direction"), Column("to port"), Column("service"), Column("entries", right=True)
    rows = [
        [
            Cell(f"{one.other.title} ({one.peer})" if one.other else one.peer),
            Cell(one.direction),
            Cell(with_port(one.protocol, one.port)),
            Cell(address_port(one.service.address, one.service.port) if one.service else ""),
            Cell(str(one.entries)),
        ]
        for one in peers[:limit]
    ]
    say_columns(columns, rows)
    if len(peers) > limit:
        say(f"and {plural(len(peers) - limit, 'peer')} more: --top shows more", "dim")


def _print_limits(found: Connections, conntrack: Conntrack, top: int | None) -> None:
    if top is not None and len(found.endpoints) > top:
        say(f"{plural(len(found.endpoints) - top, 'endpoint')} with fewer entries not shown", "dim")
    if conntrack.left_out:
        say(f"only {len(conntrack.entries)} entries were kept for peers, {conntrack.left_out} more were not", "dim")
    if conntrack.partial:
        say("a bundle holds only the entries of its node's endpoints", "dim")


def _json(found: Connections, conntrack: Conntrack, top: int | None) -> dict[str, object]:
    return {
        "entries": found.total,
        "states": [_state_json(one) for one in found.states],
        "endpoints": [
            {
                **endpoint_names(one.endpoint),
                "entries": one.entries,
                "states": [_state_json(each) for each in one.states],
            }
            for one in islice(found.endpoints, top)
        ],
        "peers": [
            {
                **endpoint_names(one.endpoint),
                "direction": one.direction,
                "peer": one.peer,
                "peer_pod": one.other.title if one.other else None,
                "protocol": one.protocol,
                "port": one.port,
                "service": address_port(one.service.address, one.service.port) if one.service else None,
                "entries": one.entries,
            }
            for one in islice(found.peers, top)
        ],
        "denied_flows": [denied_json(one) for one in islice(found.denied, top)],
        "left_out": conntrack.left_out,
        "partial": conntrack.partial,
    }


def _state_json(one: StateCount) -> dict[str, object]:
    return {"protocol": one.protocol, "state": one.state, "entries": one.entries}
