"""The collector `conntrack`: what it makes of the last count, and nothing before the first one."""

from exporter.metrics import conntrack
from exporter.metrics.conntrack import ConntrackCollector
from exporter.snapshot.conntrack_count import ConntrackCount
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Part
from tests.nodes import FakeNode
from tests.nodes import make as nodes  # noqa: F401  a fixture

STATE = 0x7


def collected(source, count, pods):
    memory = Memory(conntrack_count=Part(count))
    memory.map_counts.background = True
    snapshot = Reading(source, Settings(), memory).read(ConntrackCollector.parts)
    assert len(pods) == len([one for one in snapshot.endpoints.get().by_index.values() if one.pod])
    return ConntrackCollector().collect(snapshot)


def test_entries_have_their_protocols_names_and_pods_their_own(nodes, series):  # noqa: F811
    pods = [f"pod-{number:02}" for number in range(13)]
    source = node_of(nodes, pods)
    of_address = {f"10.65.0.{number}": 5 + number for number in range(len(pods))}
    of_address |= {"fd00::1": 20, "192.0.2.1": 900}
    count = ConntrackCount(
        {(4, 6, "established"): 7, (6, 17, "denied"): 2, (4, 132, "unreplied"): 1}, of_address, {4: 7.5, 6: 8}
    )
    samples = collected(source, count, pods)
    assert {("4", "tcp", "established"): 7, ("6", "udp", "denied"): 2, ("4", "sctp", "unreplied"): 1} == series(
        samples, conntrack.ENTRIES
    )
    assert {("4",): 7.5, ("6",): 8} == series(samples, conntrack.COUNTED)
    # Both addresses of a pod, the ten pods with most, and nobody who is no pod of this node.
    most = {("ns", "pod-01"): 26} | {("ns", f"pod-{number:02}"): 5 + number for number in range(4, 13)}
    assert most == series(samples, conntrack.POD_ENTRIES)


def test_before_the_first_count_there_is_no_number(nodes, series):  # noqa: F811
    samples = collected(node_of(nodes, ["pod-00"]), None, ["pod-00"])
    assert [{}, {}, {}] == [series(samples, family) for family in conntrack.FAMILIES]


def node_of(nodes, pods) -> FakeNode:  # noqa: F811
    """A node with these pods, whose interfaces are cali0, cali1, …"""
    index = range(len(pods))
    files = {
        f"k8s ns%2F{pod} eth0": f'{{"ifaceName":"cali{number}","ipv4Nets":["10.65.0.{number}/32"]}}'.encode()
        for number, pod in enumerate(pods)
    }
    routes = [nodes.route(f"10.65.0.{number}", number + 2) for number in index]
    return nodes.node(
        [nodes.ifstate("cali_iface4", 40, {number + 2: (f"cali{number}", STATE) for number in index})],
        links=[nodes.link(number + 2, f"cali{number}") for number in index],
        host_routes=[*routes, *([nodes.route("fd00::1", 3)] if len(pods) > 1 else [])],
        endpoint_status=nodes.folder(**files),
    )
