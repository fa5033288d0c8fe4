"""The form about a packet: it says what the command says, costs little, and whatever is typed into it stays text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.protocols import ICMP, TCP, UDP
from exporter.diagnosis.trace import PARTS as WHOLE
from exporter.diagnosis.trace import trace
from exporter.diagnosis.trace_packet import Described, named, resolve
from exporter.diagnosis.trace_sentences import sentences
from exporter.node import NodeError
from exporter.page.html import Html
from exporter.page.trace import _NOT_LOOKED_UP, FROM, TO, TRACE_PARTS, Asked, Evaluated, busy, evaluate
from exporter.page.views import PARTS, endpoint_named, endpoint_view
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from tests.page.test_pages import HOSTILE
from tests.recorded import recording
from tests.service_tables import APPROVED, MAPS, OPENER, flow
from tests.stopwatch import Stopwatch
from tests.traces.experiments import experiments

SERVER, PLAIN = "cali34769d6a557", "cali14a81566bd7"
OPTIONS = ("--from", "--to")


class Noting(Reading):
    """Notes the interfaces whose policy files are read."""

    def __init__(self, bundle):
        super().__init__(bundle, Settings(), Memory())
        self.of_files = []

    def read_policy_files(self, interfaces):
        self.of_files.append(set(interfaces))
        return super().read_policy_files(interfaces)


class Form:
    """The form of an interface of this node: `read` are the interfaces whose policy files were read, in its calls."""

    def __init__(self, bundle):
        self.reading = Noting(bundle)
        self.now = self.reading.read(PARTS | TRACE_PARTS)
        self.read = self.reading.of_files

    def ask(self, interface=SERVER, is_over=lambda: False, **given):
        endpoint = endpoint_named(self.now, interface)
        return evaluate(self.now, endpoint, Asked(**given), self.reading, is_over)


@pytest.fixture(scope="module")
def form():
    return Form(recording("v3.32.1/02-ingress-deny.after").bundle)


def shown(form, evaluated):
    """The page with this answer."""
    return Html("node-1", "/metrics").endpoint_page(
        endpoint_view(None, form.now, endpoint_named(form.now, SERVER), evaluated)
    )


@pytest.mark.parametrize(
    ("given", "described", "ends"),
    [
        ({"peer": "ns-c/plain", "protocol": "udp", "port": "9999"}, Described(UDP, 9999), ("ns-c/plain", SERVER)),
        ({"peer": "10.65.0.4", "protocol": "", "port": "8080"}, Described(TCP, 8080), ("10.65.0.4", SERVER)),
        ({"peer": "plain", "way": FROM, "protocol": "17", "port": "53"}, Described(UDP, 53), (SERVER, "plain")),
        ({"peer": "interface:eth0", "protocol": "tcp", "port": "1"}, Described(TCP, 1), ("interface:eth0", SERVER)),
    ],
)
def test_it_says_what_the_command_says(form, parsed, given, described, ends):
    snapshot = Reading(recording("v3.32.1/02-ingress-deny.after").bundle, Settings(), Memory()).read(WHOLE)
    words = tuple(f"interface:{one}" if one == SERVER else one for one in ends)
    packet, source, destination = resolve(snapshot, described, words, OPTIONS)
    result = trace(snapshot, packet, source, destination, "")
    found = form.ask(**given)
    without_source_port = [_NOT_LOOKED_UP] if described.protocol == UDP else []
    lines = list(sentences(result, named(source), named(destination), verbose=False))
    assert [*lines, *without_source_port] == found.lines
    text = parsed(shown(form, found)).text
    assert [] == [line for line, _ in found.lines if " ".join(line.split()) not in text]
    assert found.command in text


def test_its_command_asks_the_same(form):
    found = form.ask(peer="ns-c/plain", protocol="udp", port="9999")
    command = "calico-bpf-exporter trace --from ns-c/plain --to interface:cali34769d6a557 --protocol udp --port 9999"
    assert command == found.command


def test_the_interface_that_a_packet_takes_can_be_named():
    form = Form(experiments()["v3.32.1/02-default-deny-udp"].bundle)
    asked = {"peer": "192.0.2.1", "protocol": "udp", "port": "5300"}
    unnamed, named_ = form.ask(**asked), form.ask(**asked, via="eth0")
    assert ("not known" in unnamed.lines[0][0], "denied" in named_.lines[0][0]) == (True, True)
    assert any("--via" in line for line, _ in unnamed.lines)
    assert named_.command == f"{unnamed.command} --via eth0"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"peer": "ns-c/plain", "port": "1", "via": SERVER}, f"the interface {SERVER} is no interface of the host"),
        ({"peer": "ns-c/plain", "port": "1", "via": HOSTILE}, "is no interface of the host: it has "),
        ({"peer": "ns-c/plain"}, "give the destination's port"),
        ({"peer": "ns-c/plain", "port": "65536"}, "the port is no number up to 65535"),
        ({"peer": "ns-c/plain", "port": "9" * 5000}, "the port is no number up to 65535"),
        ({"peer": "ns-c/plain", "port": "1", "source_port": "x"}, "the source port is no number up to 65535"),
        ({"peer": "ns-c/plain", "protocol": "icmp", "port": "1"}, "only tcp, udp and sctp have port"),
        ({"peer": "ns-c/plain", "protocol": "nothing"}, "nothing is none of tcp"),
        ({"peer": "nobody", "port": "1"}, "no pod nobody on this node"),
        ({"peer": "a/b/c", "port": "1"}, "the peer a/b/c is not [NAMESPACE/]NAME"),
        ({"peer": "interface:eth9", "port": "1"}, "there is no interface eth9"),
        ({"peer": "", "port": "1"}, "name the peer"),
    ],
)
def test_what_cannot_be_evaluated_is_a_sentence(form, parsed, given, sentence):
    found = form.ask(**given)
    assert (sentence in found.problem, []) == (True, list(found.lines))
    assert "This is not known: " in parsed(shown(form, found)).text


def test_policy_files_that_cannot_be_read_are_a_sentence(form, monkeypatch):
    def refuse(interfaces):
        raise NodeError(f"the files of {len(interfaces)} interfaces could not be read")

    monkeypatch.setattr(form.reading, "read_policy_files", refuse)
    assert "could not be read" in form.ask(peer="10.0.0.1", port="1").problem


def test_only_the_files_of_interfaces_on_the_way_are_read(form):
    form.read.clear()
    form.ask(peer="ns-c/plain", port="80")
    hosts = {one.interface for one in form.now.endpoints.get().by_index.values() if one.kind == "host" and one.state}
    assert [{SERVER, PLAIN} | hosts] == form.read


def test_without_files_of_the_way_policy_debug_is_not_called_off(make):
    source = make.like(recording("v3.32.1/02-ingress-deny.after").bundle)
    files = source.facts["policy_files"]
    kept = {name: one for name, one in files.files.items() if SERVER not in name and PLAIN not in name}
    source.facts["policy_files"] = replace(files, files=kept)
    found = Form(source).ask(peer="ns-c/plain", port="80")
    assert "Calico has written no policy file for it" in found.lines[1][0]


# An open connection comes before policy.

CLIENT, CLIENT2, BACKEND = "10.244.145.197", "10.244.145.193", "10.244.145.194"
SECOND = 1_000_000_000
SENT, ANSWERED = {"bits": APPROVED | OPENER, "packets": 1}, {"bits": APPROVED, "packets": 1}
OPEN = "this very flow is in connection tracking, allowed: policy is not asked while it lives"
TABLES = {"cali_v4_nat_fe3": "lpm_trie", "cali_v4_nat_be": "hash", "cali_v4_routes": "lpm_trie"}


@pytest.fixture
def tracking(make):
    """A node with connection tracking, whose server denies everything: the form, and what was asked of the node."""

    def build(*entries):
        node = make.like(experiments()["v3.32.1/02-default-deny-udp"].bundle)
        for number, (name, kind) in enumerate(TABLES.items()):
            rows = [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in MAPS[name]["entries"].items()]
            node.maps[name] = make.table(name, 500 + number, kind, *rows)
        node.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 700, "hash", *entries)
        node.facts["clock_ns"] = 100 * SECOND
        form = Form(node)
        node.asked.clear()
        return form, node.asked

    return build


def tracked(protocol, source, destination, forth=SENT, back=ANSWERED):
    return flow(protocol, source, destination, forth, back, last_seen=99 * SECOND)


UDP_OPEN = tracked(UDP, (CLIENT2, 40000), (BACKEND, 5300))
PING_OPEN = tracked(ICMP, (CLIENT2, 0), (BACKEND, 0))


@pytest.mark.parametrize(
    ("entry", "given", "is_open"),
    [
        (UDP_OPEN, {"protocol": "udp", "port": "5300", "source_port": "40000"}, True),
        (UDP_OPEN, {"protocol": "udp", "port": "5300", "source_port": "40001"}, False),
        (UDP_OPEN, {"protocol": "udp", "port": "5301", "source_port": "40000"}, False),
        (PING_OPEN, {"protocol": "icmp"}, True),
        (UDP_OPEN, {"protocol": "icmp"}, False),
    ],
)
def test_a_flow_in_connection_tracking_is_found_by_its_key_alone(tracking, entry, given, is_open):
    form, asked = tracking(entry)
    found = form.ask(SERVER, peer=CLIENT2, **given)
    text = "\n".join(line for line, _ in found.lines)
    assert (is_open, not is_open) == (OPEN in text, "the end of tier default" in text)
    assert "connection tracking was not read" not in text
    assert (1, 0, 0) == tuple(asked[f"{how} cali_v4_ct4"] for how in ("values", "batches", "dump"))
    assert ("--source-port" in found.command) == ("source_port" in given)


def test_a_flow_that_only_its_sender_allowed_is_evaluated_at_the_receiver(tracking):
    form, _ = tracking(tracked(UDP, (CLIENT2, 40000), (BACKEND, 5300), back={}))
    found = form.ask(SERVER, peer=CLIENT2, protocol="udp", port="5300", source_port="40000")
    assert "denied" in found.lines[0][0]
    assert 1 == sum(OPEN in line for line, _ in found.lines)


def test_without_its_source_port_a_flow_is_not_searched_and_it_says_so(tracking):
    form, asked = tracking(UDP_OPEN)
    lines = [line for line, _ in form.ask(SERVER, peer=CLIENT2, protocol="udp", port="5300").lines]
    assert "An open connection of this flow is not searched without the source port." == lines[-1]
    assert any("connection tracking was not read" in line for line in lines)
    assert 0 == asked["values cali_v4_ct4"]


def test_the_first_segment_of_tcp_is_asked_about_whatever_connection_tracking_says(tracking):
    form, asked = tracking(tracked(TCP, (CLIENT2, 40000), (BACKEND, 80)))
    lines = [line for line, _ in form.ask(SERVER, peer=CLIENT2, port="80", source_port="40000").lines]
    assert not any("connection" in line for line in lines)
    assert 0 == asked["values cali_v4_ct4"]


def test_a_flow_to_a_service_is_found_by_its_backend(tracking):
    form, _ = tracking(tracked(UDP, (CLIENT2, 40000), (BACKEND, 5300)))
    asked = {"peer": "10.96.143.136", "way": FROM, "protocol": "udp", "port": "5300"}
    client = next(one.interface for one in form.now.endpoints.get().by_index.values() if CLIENT2 in one.addresses)
    lines = [line for line, _ in form.ask(client, **asked, source_port="40000").lines]
    assert 2 == sum(OPEN in line for line in lines)
    assert not any(OPEN in line for line, _ in form.ask(client, **asked, source_port="40001").lines)


def test_a_service_with_many_backends_is_not_searched(tracking, monkeypatch):
    monkeypatch.setattr("exporter.page.trace._MAX_BACKENDS", 0)
    form, asked = tracking(UDP_OPEN)
    found = form.ask(SERVER, peer=CLIENT2, protocol="udp", port="5300", source_port="40000")
    assert any("connection tracking was not read" in line for line, _ in found.lines)
    assert 0 == asked["values cali_v4_ct4"]


# 200 ms at most.


def test_a_policy_that_takes_long_is_not_evaluated():
    form = Form(experiments()["v3.32.1/35-huge-rule-350"].bundle)
    endpoint = next(
        name.partition("_")[0]
        for name, one in experiments()["v3.32.1/35-huge-rule-350"].bundle.policy_files().files.items()
        if len(one) > 1_000_000
    )
    watch = Stopwatch()
    found = form.ask(endpoint, peer="10.244.145.197", protocol="udp", port="5300")
    assert watch.seconds() < 0.2
    assert "its policy is more than what may be evaluated here: use the command" in found.lines[1][0]


def test_a_large_policy_that_is_evaluated_takes_a_fifth_of_a_second():
    bundle = experiments()["v3.32.1/25-many-rules-57-deny"].bundle
    name, content = max(bundle.policy_files().files.items(), key=lambda one: len(one[1]))
    interface, direction, _ = name.split("_")
    assert len(content) > 150_000
    form = Form(bundle)
    watch = Stopwatch()
    found = form.ask(interface, peer="192.0.2.1", way=TO if direction == "ingress" else FROM, protocol="udp", port="1")
    assert watch.seconds() < 0.2
    assert any("rules that did not match" in line for line, _ in found.lines)


def test_after_its_time_no_program_is_begun(form):
    found = form.ask(peer="ns-c/plain", protocol="udp", port="9999", is_over=lambda: True)
    assert "not known" in found.lines[0][0]
    assert "use the command" in found.lines[1][0]


# Whatever is typed.


@given(
    peer=st.text(max_size=60) | st.sampled_from([HOSTILE, "ns-b/" + HOSTILE, "::1", "fe80::1%eth0", "0.0.0.0"]),
    way=st.sampled_from([TO, FROM]),
    protocol=st.text(max_size=10) | st.sampled_from(["tcp", "udp", "icmp", "icmpv6", "sctp", "47", "", HOSTILE]),
    port=st.text(max_size=6) | st.integers(0, 70000).map(str) | st.just(HOSTILE),
    via=st.text(max_size=15) | st.sampled_from(["", "eth0", SERVER, HOSTILE]),
)
def test_anything_typed_is_an_answer_or_a_sentence_and_stays_text(form, parsed, peer, way, protocol, port, via):
    found = form.ask(peer=peer, way=way, protocol=protocol, port=port, via=via)
    assert bool(found.lines) != bool(found.problem)
    page = parsed(shown(form, found))
    assert "script" not in {tag for tag, *_ in page.shape[:-1] if tag != "script"}
    assert page.shape.count(("script",)) == 1
    assert not [one for one in page.shape if one[0] == "img"]
    assert not {"\u202e", "\x1b"} & set("".join([page.text, *page.attributes]))


def test_the_form_keeps_what_was_typed(form, parsed):
    typed = {"peer": "ns-c/plain", "way": "from", "protocol": "udp", "port": "53", "source-port": " 40001"}
    typed["via"] = "eth1"
    body = shown(form, Evaluated(Asked.of(typed))).decode()
    assert 'name="peer" value="ns-c/plain"' in body
    assert '<option value="from" selected>' in body
    assert ('name="protocol" value="udp"' in body, 'name="port" value="53"' in body) == (True, True)
    assert 'name="source-port" value="40001"' in body
    assert 'name="via" value="eth1"' in body
    assert "<option>eth0</option>" in body
    assert f'name="interface" value="{SERVER}"' in body
    text = parsed(shown(form, busy(Asked("ns-c/plain")))).text
    assert "another packet is being evaluated here: ask again" in text
