"""`conntrack`: entries by pod, protocol and state, and denied flows, of a bundle that was made here."""

import json

import pytest

from tests.nodes import make  # noqa: F401  # the fixture
from tests.service_tables import APPROVED, OPENER, flow
from tests.traces.experiments import experiments

CLIENT, SERVER, OUTSIDE = "10.65.0.2", "10.65.0.3", "192.0.2.9"
SECOND = 1_000_000_000
SENT, ANSWERED = {"bits": APPROVED | OPENER, "packets": 9}, {"bits": APPROVED, "packets": 8}
FLOWS = [
    *(flow(17, (CLIENT, 40000 + number), (SERVER, 8080), SENT, ANSWERED, last_seen=SECOND) for number in range(3)),
    *(flow(17, (OUTSIDE, number), (SERVER, 9999), SENT, {}, last_seen=98 * SECOND) for number in range(2)),
    flow(6, (OUTSIDE, 1), ("192.0.2.8", 22), SENT, ANSWERED, last_seen=SECOND),
]


@pytest.fixture
def bundle(make, tmp_path):  # noqa: F811
    """The file of a bundle of a node with two pods and these flows."""
    node = make.node(
        [
            make.counters("cali_counters6", 60, {(7, 1): {0: 20, 4: 18}, (7, 0): {0: 1}}),
            make.rules("cali_rule_ctrs2", 20, {}),
            make.ifstate("cali_iface4", 40, {5: ("cali5", 0x7), 7: ("cali7", 0x7)}),
            make.table("cali_v4_ct4", 84, "lru_hash", *FLOWS),
        ],
        links=[make.link(5, "cali5"), make.link(7, "cali7")],
        host_routes=[make.route(CLIENT, 5), make.route(SERVER, 7)],
        endpoint_status=make.folder(
            **{
                "k8s ns-a%2Fclient eth0": b'{"ifaceName": "cali5"}',
                "k8s ns-b%2Fserver eth0": b'{"ifaceName": "cali7"}',
            }
        ),
        clock_ns=100 * SECOND,
    )
    path = tmp_path / "node.tar.xz"
    path.write_bytes(make.bundled(node, {"node": "here"}))
    return path


def words(result):
    assert (0, "") == (result.exit_code, result.stderr)
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


DENIED = "ns-b/server denied 192.0.2.9 to udp/9999 at 10.65.0.3: 2 flows with 18 packets, the last 2 s ago"


def test_endpoints_come_by_entries_with_protocols_and_states_and_then_the_node(run, bundle):
    lines = words(run("conntrack", "--bundle", bundle))
    assert lines[:7] == [
        "endpoint protocol state entries",
        "ns-b/server 5",
        "udp established 3",
        "udp unreplied 2",
        "ns-a/client 3",
        "udp established 3",
        "all entries of the node 5",
    ]
    assert DENIED in lines
    assert lines[-1] == "a bundle holds only the entries of its node's endpoints"


def test_top_leaves_the_rest_out_and_says_so(run, bundle):
    lines = words(run("conntrack", "--bundle", bundle, "--top", 1))
    assert "ns-a/client 3" not in lines
    assert "1 endpoint with fewer entries not shown" in lines


def test_of_one_pod_its_peers_are_shown(run, bundle):
    lines = words(run("conntrack", "--bundle", bundle, "--pod", "server"))
    assert "all entries of the node 5" not in lines
    start = lines.index("peer direction to port service entries")
    assert lines[start + 1 : start + 3] == [
        "ns-a/client (10.65.0.2) inbound udp/8080 3",
        "192.0.2.9 inbound udp/9999 2",
    ]
    assert DENIED in lines
    one = words(run("conntrack", "--bundle", bundle, "--pod", "server", "--top", 1))
    assert "and 1 peer more: --top shows more" in one


def test_the_client_has_no_denied_flow(run, bundle):
    assert not any("denied" in line for line in words(run("conntrack", "--bundle", bundle, "--ip", CLIENT)))


def test_an_endpoint_without_entries_is_told(run, bundle, make):  # noqa: F811
    result = run("conntrack", "--bundle", bundle, "--interface", "cali9")
    assert (1, "Error: Calico knows no interface cali9 on this node\n") == (result.exit_code, result.stderr)


def test_json_has_the_same_facts(run, bundle):
    answer = json.loads(run("conntrack", "--bundle", bundle, "--pod", "server", "-o", "json").stdout)
    assert (answer["entries"], answer["left_out"], answer["partial"]) == (5, 0, True)
    assert answer["endpoints"] == [
        {
            "interface": "cali7",
            "namespace": "ns-b",
            "pod": "server",
            "entries": 5,
            "states": [
                {"protocol": 17, "state": "established", "entries": 3},
                {"protocol": 17, "state": "unreplied", "entries": 2},
            ],
        }
    ]
    assert [(one["peer"], one["peer_pod"], one["direction"], one["entries"]) for one in answer["peers"]] == [
        (CLIENT, "ns-a/client", "inbound", 3),
        (OUTSIDE, None, "inbound", 2),
    ]
    (denied,) = answer["denied_flows"]
    assert denied == {
        "receiver": {"interface": "cali7", "namespace": "ns-b", "pod": "server"},
        "peer": OUTSIDE,
        "peer_pod": None,
        "destination": SERVER,
        "ip_family": 4,
        "protocol": 17,
        "port": 9999,
        "service": None,
        "flows": 2,
        "packets": 18,
        "age": 2.0,
    }


def test_an_older_bundle_is_one_sentence(run, recording):
    result = run("conntrack", "--bundle", recording("v3.32.1/02-ingress-deny.after"))
    assert (1, "") == (result.exit_code, result.stdout)
    assert "this bundle was made by an older version and has no IPv4 connection-tracking map" in result.stderr


# `why` tells what connection tracking knows.


def test_why_lists_the_peers_whose_flows_were_denied(run, bundle):
    result = run("why", "--bundle", bundle, "--pod", "server")
    lines = [line.strip() for line in result.stdout.splitlines()]
    start = lines.index("Flows that their receiver denied, as connection tracking still knows them:")
    why = "ns-b/server, inbound: Calico has written no policy file for it"
    assert lines[start + 1] == f"{DENIED}; the rule is not known: {why}"
    assert lines[start + 2].startswith(
        "Connection tracking forgets a denied flow this long after its last packet: 60 s"
    )
    answer = json.loads(run("why", "--bundle", bundle, "--pod", "server", "-o", "json").stdout)
    (denied,) = answer["denied_flows"]
    assert (denied["peer"], denied["port"], denied["packets"]) == (OUTSIDE, 9999, 18)
    assert (denied["decided_by"], denied["rule_ids"], denied["why_unknown"]) == (None, [], why)


def test_why_says_which_rule_denied_a_peer(run, tmp_path, make):  # noqa: F811
    experiment = experiments()["v3.32.1/14-service-vip-denied"]
    node, packet = make.like(experiment.bundle), experiment.packet
    ends = (packet.source, packet.source_port), packet.translated
    entry = flow(6, *ends, SENT, {}, service=(packet.destination, packet.destination_port), last_seen=SECOND)
    node.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 700, "hash", entry)
    path = tmp_path / "node.tar.xz"
    path.write_bytes(make.bundled(node))
    arguments = ["why", "--bundle", path, "--interface", experiment.programs[-1][0]]
    assert "9 packets; denied by the end of tier default\n" in run(*arguments).stdout
    (denied,) = json.loads(run(*arguments, "-o", "json").stdout)["denied_flows"]
    decided = denied["decided_by"]
    assert ("default", "end_of_tier", "deny") == (decided["tier"], decided["rule"], decided["action"])
    experiment.check(experiment.programs[-1][2], "deny", map(int, denied["rule_ids"]))
    assert "" == denied["why_unknown"]


def test_why_of_an_older_bundle_is_as_before(run, recording):
    result = run("why", "--bundle", recording("v3.32.1/02-ingress-deny.after"), "--pod", "server", "-o", "json")
    assert json.loads(result.stdout)["denied_flows"] == []
    assert (
        "onnection tracking"
        not in run("why", "--bundle", recording("v3.32.1/02-ingress-deny.after"), "--pod", "server").stdout
    )
