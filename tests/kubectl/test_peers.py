"""`why POD`: peers that the exporter has no name for are named by the cluster, with the user's permissions."""

import json
import os
import pty
import select
import sys
import time

import pytest

from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import TOOLS
from tests.web.fake_api_server import refusal

PRINT = "import sys; sys.stderr.write({1!r}); sys.stdout.write({0!r}); sys.exit({2})"
# What the exporter of node n1 says about data/db: peers here, on other nodes, of a service, and from outside.
DENIED = [
    ("inbound", "10.65.0.5", "ops/probe", "10.65.0.4", None),
    ("inbound", "10.65.1.7", "a pod of the node 192.0.2.2", "10.65.0.4", None),
    ("inbound", "192.0.2.2", "another node", "10.65.0.4", None),
    ("inbound", "192.0.2.1", "this node", "10.65.0.4", None),
    ("inbound", "198.51.100.9", "", "10.96.0.30", "10.65.0.4 5432"),
    ("outbound", "10.96.0.20", "a service", "10.96.0.20", "10.65.1.8 8080"),
    ("inbound", "fd00:65:1::7", "a pod of another node", "fd00:65::4", None),
]


def group(direction, peer, name, destination, backend, verdict="denied"):
    return {
        "direction": direction, "peer": peer, "peer_name": name, "destination": destination, "backend": backend,
        "verdict": verdict, "packets": 3,
    }  # fmt: skip


def line_of(direction, peer, name, destination, backend):
    ends = f"{'from' if direction == 'inbound' else 'to'} {f'{name} ({peer})' if name else peer}"
    asked = f" at {destination}" if direction == "inbound" else ""
    way = f", backend {backend.replace(' ', ' port ')}" if backend else ""
    return f"  3 packets {ends}, udp/9991{asked}{way}: data/db, denied by the end of tier default"


def answer(**more):
    flows = [
        {"peer": "10.65.1.7", "peer_pod": None, "destination": "10.65.0.4", "service": "10.96.0.30:5432"},
        {"peer": "10.65.0.5", "peer_pod": "ops/probe", "destination": "10.65.0.4", "service": None},
    ]
    text = [
        "data/db (cali4), in 30 s: 9 packets dropped.",
        "  data/db denied 10.65.1.7 to tcp/5432 at 10.65.0.4, asked for as service 10.96.0.30:5432: 1 flow",
        "  data/db denied ops/probe (10.65.0.5) to udp/9 at 10.65.0.4: 1 flow",
        "    deny 3  GlobalNetworkPolicy x, rule 0: udp, from 10.65.1.7/32, 10.65.1.70",
        *(line_of(*one) for one in DENIED),
    ]
    packets = {"groups": [group(*one) for one in DENIED]}
    found = {"loses_packets": True, "denied_flows": flows, "packets": packets, "text": text}
    return found | {"styles": ["bold", *[""] * (len(text) - 1)]} | more


def service(namespace, name, *addresses, ingress=()):
    status = {"loadBalancer": {"ingress": [{"ip": one} for one in ingress]}}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIPs": list(addresses)}, "status": status,
    }  # fmt: skip


def node(name, *addresses, tunnel=None):
    own = {"projectcalico.org/IPv4VXLANTunnelAddr": tunnel} if tunnel else {}
    rows = [{"type": "InternalIP", "address": one} for one in addresses]
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": own},
        "status": {"addresses": rows},
    }  # fmt: skip


def placed(name, node_, namespace, *addresses, **more):
    return pod(name, node_, namespace, podIP=addresses[0], podIPs=[{"ip": one} for one in addresses], **more)


@pytest.fixture
def here(cluster):
    """The cluster; what the exporter of n1 says is `cluster.says(found)`."""
    there = exporter("n1", podIP="192.0.2.1", podIPs=[{"ip": "192.0.2.1"}])
    cluster.pods += [
        there,
        pod("db", "n1", "data"),
        exporter("n2", podIP="192.0.2.2", podIPs=[{"ip": "192.0.2.2"}]),
        placed("web", "n2", "shop", "10.65.1.7", "fd00:65:1::7"),
        placed("old", "n2", "shop", "10.65.1.7", phase="Succeeded"),
        placed("cart", "n2", "shop", "10.65.1.8"),
    ]
    cluster.services += [service("shop", "cart", "10.96.0.20"), service("data", "db", "10.96.0.30", "fd00:96::1e")]

    def says(found, code=3, errors="watching for 30 s; Ctrl-C ends it sooner\n"):
        text = found if isinstance(found, str) else json.dumps(found, indent=2) + "\n"
        cluster.runs(there, [sys.executable, "-c", PRINT.format(text, errors, code)])

    cluster.says = says
    says(answer())
    return cluster


NAMED = [
    "denied shop/web (10.65.1.7) to tcp/5432 at 10.65.0.4, asked for as service data/db (10.96.0.30:5432): 1 flow",
    "  data/db denied ops/probe (10.65.0.5) to udp/9 at 10.65.0.4: 1 flow",
    "from ops/probe (10.65.0.5), udp/9991 at 10.65.0.4:",
    "from shop/web (10.65.1.7), udp/9991",
    "from node n2 (192.0.2.2), udp/9991",
    "from node n1 (192.0.2.1), udp/9991",
    "from 198.51.100.9, udp/9991 at service data/db (10.96.0.30), backend 10.65.0.4 port 5432: data/db",
    "to service shop/cart (10.96.0.20), udp/9991, backend 10.65.1.8 port 8080",
    "from shop/web (fd00:65:1::7), udp/9991 at fd00:65::4:",
    "udp, from 10.65.1.7/32, 10.65.1.70",
]


def requests(cluster, kind):
    return [one for one in cluster.api.seen if one.path.endswith(f"/{kind}")]


@pytest.mark.parametrize("more", [[], ["--packets"]])
def test_peers_of_the_whole_cluster_are_named(here, kubectl, more):
    done = kubectl("why", "db", "-n", "data", *more)
    assert (3, "data/db (cali4), in 30 s: 9 packets dropped.") == (done.returncode, done.stdout.splitlines()[0])
    assert [] == [one for one in NAMED if one not in done.stdout]
    assert "watching for 30 s; Ctrl-C ends it sooner" in done.stderr.splitlines()
    assert [["why", "--pod", "data/db", *more, "--output=json"]] == [words[1:] for _, words in here.ran]


def test_json_has_the_names_too(here, kubectl):
    found = json.loads(kubectl("why", "db", "-n", "data", "-o", "json").stdout)
    names = [one["peer_name"] for one in found["packets"]["groups"]]
    expected = ["ops/probe", "shop/web", "node n2", "node n1", "", "service shop/cart", "shop/web"]
    assert expected == names
    assert "service data/db" == found["packets"]["groups"][4]["destination_name"]
    assert [("shop/web", "service data/db"), ("ops/probe", None)] == [
        (one["peer_name"], one.get("service_name")) for one in found["denied_flows"]
    ]


def test_only_the_addresses_without_a_name_are_asked_for(here, kubectl):
    kubectl("why", "db", "-n", "data")
    asked = [one.query for one in requests(here, "pods") if "status.podIP" in one.query]
    assert 4 == len(asked)  # and the pod's second address was found in the list of all
    assert not any("10.65.0.5" in one or "192.0.2.1" in one for one in asked)
    assert (1, 0) == (len(requests(here, "services")), len(requests(here, "nodes")))


def test_without_unnamed_peers_nothing_is_asked(here, kubectl):
    here.says(answer(denied_flows=[], packets={"groups": [group(*DENIED[0])]}, text=["nothing"], styles=[""]))
    before = len(requests(here, "pods"))
    assert "nothing\n" == kubectl("why", "db", "-n", "data").stdout
    assert 1 == len(requests(here, "pods")) - before  # that of the exporter
    assert ([], []) == (requests(here, "services"), requests(here, "nodes"))


def test_many_addresses_are_asked_for_at_once(here, kubectl):
    groups = [group("inbound", f"10.65.2.{one}", "", "10.65.0.4", None) for one in range(30)]
    text = [line_of("inbound", f"10.65.2.{one}", "", "10.65.0.4", None) for one in range(30)]
    here.pods.append(placed("far", "n3", "shop", "10.65.2.29"))
    here.says(answer(denied_flows=[], packets={"groups": groups}, text=text, styles=[]))
    done = kubectl("why", "db", "-n", "data", "--packets")
    assert "from shop/far (10.65.2.29), udp" in done.stdout
    assert "from 10.65.2.2, udp" in done.stdout
    assert [] == [one for one in requests(here, "pods") if "status.podIP" in one.query]


def test_a_node_is_known_by_its_tunnel_too(here, kubectl):
    row = "inbound", "10.65.9.0", "another node", "10.65.0.4", None
    here.nodes += [node("n2", "192.0.2.2"), node("n9", "192.0.2.9", tunnel="10.65.9.0")]
    here.says(answer(denied_flows=[], packets={"groups": [group(*row)]}, text=[line_of(*row)], styles=[""]))
    assert "from node n9 (10.65.9.0), udp" in kubectl("why", "db", "-n", "data", "--packets").stdout


def test_an_address_of_a_load_balancer_is_the_service_s(here, kubectl):
    here.services.append(service("shop", "front", "10.96.0.99", ingress=["203.0.113.5"]))
    row = "inbound", "198.51.100.9", "", "203.0.113.5", "10.65.0.4 80"
    here.says(answer(denied_flows=[], packets={"groups": [group(*row)]}, text=[line_of(*row)], styles=[""]))
    assert "at service shop/front (203.0.113.5), backend" in kubectl("why", "db", "-n", "data", "--packets").stdout


@pytest.mark.parametrize(
    ("refused", "kind", "left"),
    [
        (("list", None), "pods", "from a pod of the node 192.0.2.2 (10.65.1.7), udp"),
        (("list", "services"), "services", "to a service (10.96.0.20), udp"),
    ],
)
def test_what_may_not_be_listed_is_one_sentence_and_addresses_stay(here, kubectl, refused, kind, left):
    here.refused[refused] = refusal(403, f'{kind} is forbidden: User "me" cannot list resource', "Forbidden")
    scope = ["--exporter-namespace", "calico-system"]
    done = kubectl("why", "db", "-n", "data", "--packets", *scope)
    sentence = f"some peers have no name: you may not list {kind} in the whole cluster: {kind} is forbidden"
    assert 1 == done.stderr.count(sentence)
    assert (3, True) == (done.returncode, left in done.stdout)
    assert ("from shop/web (10.65.1.7)" in done.stdout) == (kind != "pods")


def test_an_exporter_that_says_less_is_shown_as_it_is(here, kubectl):
    here.says({"loses_packets": False, "text": ["data/db: no packet was dropped"]}, 0)
    done = kubectl("why", "db", "-n", "data")
    assert (0, "data/db: no packet was dropped\n") == (done.returncode, done.stdout)


def test_without_a_response_it_is_the_exporter_s_sentence_and_exit_code(here, kubectl):
    here.says("", 1, "Error: no pod data/db on this node: is it on another node?\n")
    done = kubectl("why", "db", "-n", "data")
    assert (1, "") == (done.returncode, done.stdout)
    assert "Error: no pod data/db on this node: is it on another node?" == done.stderr.splitlines()[-1]


def test_both_sides_of_two_pods_have_names(here, kubectl):
    here.pods.append(pod("far", "n2", "shop"))
    here.says(answer(counted=[]))
    here.programs["calico-system", "exporter-n2"] = here.programs["calico-system", "exporter-n1"]
    done = kubectl("why", "data/db", "--to", "shop/far", "--for", "1s")
    assert 2 == done.stdout.count("from shop/web (10.65.1.7), udp/9991")
    assert [1, 1] == [done.stdout.count(f"from node {one} (192.0.2.1)") for one in ("n1", "n2")]


HOSTILE = [
    {"text": 7},
    {"text": [7, None, {"x": 1}], "styles": ["magenta", 7, None], "denied_flows": 7, "packets": 7},
    {"text": ["\x1b[2J10.65.1.7"], "denied_flows": [7, {"peer": 7}, {"peer": "10.65.1.7,metadata.name=x"}]},
    {"text": [], "packets": {"groups": [{"verdict": "denied", "peer": ["x"], "peer_name": 7, "backend": 1}]}},
    {"text": ["x"], "packets": {"groups": [{"verdict": "denied", "peer": "--all", "destination": "fe80::1%eth0"}]}},
]


@pytest.mark.parametrize("found", HOSTILE)
def test_what_an_exporter_makes_up_is_shown_escaped_and_asks_for_nothing(here, kubectl, found):
    here.says(found, 0)
    done = kubectl("why", "db", "-n", "data")
    assert (0, False) == (done.returncode, "\x1b" in done.stdout)
    assert "Traceback" not in done.stderr
    assert [] == [one for one in requests(here, "pods") if "status.podIP" in one.query]


@pytest.mark.parametrize("text", ["{", "{]\n", '{"x": ' + "[" * 100_000])
def test_what_is_not_json_is_a_sentence(here, kubectl, text):
    here.says(text, 0)
    done = kubectl("why", "db", "-n", "data")
    assert (1, "") == (done.returncode, done.stdout)
    assert "Error: its response is not JSON: is that exporter of another version?" in done.stderr


def test_more_than_a_response_may_have_is_a_sentence(here, kubectl):
    there = "calico-system", "exporter-n1"
    here.programs[there] = ([sys.executable, "-c", "while True: print('{' + 'x' * 65536)"], {})
    done = kubectl("why", "db", "-n", "data")
    assert (1, "Error: its response has more than 16 MiB") == (done.returncode, done.stderr.splitlines()[-1])


def test_the_format_behind_the_dashes_is_the_exporter_s_own(here, kubectl):
    found = json.loads(kubectl("why", "db", "-n", "data", "--", "-o", "json").stdout)
    assert "a service" == found["packets"]["groups"][5]["peer_name"]
    assert ["-o", "json"] == here.ran[0][1][-2:]


WAIT = """
import signal, sys, time
def end(*_):
    sys.stdout.write({0!r})
    sys.stdout.flush()
    sys.exit(3)
signal.signal(signal.SIGINT, end)
print("watching for 30 s; Ctrl-C ends it sooner", file=sys.stderr, flush=True)
time.sleep(30)
"""


def test_in_a_terminal_ctrl_c_ends_it_with_names(here, environment):
    program = WAIT.format(json.dumps(answer(), indent=2) + "\n")
    here.programs["calico-system", "exporter-n1"] = ([sys.executable, "-c", program], {})
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment)
        os.execv(TOOLS / "kubectl", ["kubectl", "calico-bpf", "why", "db", "-n", "data"])
    printed, pressed, deadline = b"", False, time.monotonic() + 40
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                printed += os.read(terminal, 65536)
            if b"watching for 30 s" in printed and not pressed:
                os.write(terminal, b"\x03")
                pressed = True
    except OSError:  # how a terminal ends on Linux
        pass
    _, status = os.waitpid(child, 0)
    shown = " ".join(printed.decode().split())
    assert 3 == os.waitstatus_to_exitcode(status), shown
    assert "from shop/web (10.65.1.7), udp/9991" in shown
    assert "\x1b[1mdata/db (cali4), in 30 s: 9 packets dropped.\x1b[0m" in shown
    assert ("{" in shown, "Traceback" in shown) == (False, False)
