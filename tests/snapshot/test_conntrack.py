"""The parts of a snapshot that hold services, routes and flows, of a node and of its bundle."""

from dataclasses import replace

import pytest

from exporter.bpf.maps import MapDenied, MapMissing
from exporter.calico.conntrack import Side
from exporter.calico.nat import Backend
from exporter.node import NodeError
from exporter.snapshot import conntrack, conntrack_count
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading, take_snapshot
from exporter.snapshot.settings import Settings, all_addresses
from tests.service_tables import (
    APPROVED,
    MAPS,
    OPENER,
    affinity,
    backend,
    flow,
    forward,
    frontend,
    recorded,
    route,
)

CLIENT, SERVER, OUTSIDE = "10.65.0.2", "10.65.0.3", "192.0.2.9"
CLIENT6, SERVER6 = "fd00:65::2", "fd00:65::3"
ALLOWED = {"bits": APPROVED | OPENER, "packets": 4}, {"bits": APPROVED, "packets": 4}
DENIED = {"bits": APPROVED | OPENER, "packets": 7}, {}
FLOWS = [
    flow(17, (CLIENT, 40000), (SERVER, 9999), *DENIED, last_seen=5_000_000_000),
    flow(6, (CLIENT, 40001), (SERVER, 8080), *ALLOWED, service=("10.96.0.7", 80)),
    forward(6, (CLIENT, 40001), ("10.96.0.7", 80), (SERVER, 8080)),
    flow(17, (CLIENT, 53000), (OUTSIDE, 53), *DENIED),  # maybe only an interface without Calico's programs
    flow(6, (OUTSIDE, 1), ("192.0.2.8", 22), *DENIED),
    flow(6, (OUTSIDE, 2), ("192.0.2.8", 22), *ALLOWED),
]
FLOWS6 = [flow(17, (CLIENT6, 1), (SERVER6, 2), *DENIED)]


@pytest.fixture
def node(make):
    """A node with two pods, a service and flows."""
    addresses = [(CLIENT, 5), (SERVER, 7), (CLIENT6, 5), (SERVER6, 7)]
    return make.node(
        [
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("cali5", 0x7), 7: ("cali7", 0x7)}),
            make.table("cali_v4_nat_fe3", 80, "lpm_trie", frontend("10.96.0.7", 80, 6, 1, 1)),
            make.table("cali_v4_nat_be", 81, "hash", backend(1, 0, SERVER, 8080)),
            make.table("cali_v4_nat_aff", 82, "lru_hash", affinity("10.96.0.7", 80, 6, CLIENT, SERVER, 8080, 9)),
            make.table("cali_v4_routes", 83, "lpm_trie", route(f"{SERVER}/32", 0xD, ifindex=7)),
            make.table("cali_v4_ct4", 84, "lru_hash", *FLOWS),
            make.table("cali_v6_ct4", 85, "lru_hash", *FLOWS6),
        ],
        links=[make.link(3, "eth0"), make.link(5, "cali5"), make.link(7, "cali7")],
        host_routes=[make.route(*one) for one in addresses],
        addresses=[make.address("192.0.2.8", 24, 3)],
        clock_ns=12_000_000_000,
    )


def taken(source, *parts, flows_of=None):
    settings = Settings(flows_of=flows_of) if flows_of else Settings()
    return take_snapshot(source, settings, Memory(), parts)


def between(found, protocol, source, destination, port):
    """The kept entries of flows that `source` opened to this address and port, latest first."""
    wanted = protocol, source, destination, port
    kept = [
        one
        for one in found.entries
        if (one.protocol, one.source.address, one.destination.address, one.destination.port) == wanted
    ]
    return tuple(sorted(kept, key=lambda one: -one.last_seen))


def ends(entries):
    return {(one.source.address, one.destination.address, one.destination.port) for one in entries}


DENIED_HERE = {(CLIENT, SERVER, 9999), (CLIENT6, SERVER6, 2)}


def test_services_and_routes_can_be_asked(node):
    snapshot = taken(node, "services_4", "routes_4", "addresses")
    services = snapshot.services(4).get()
    assert services.find("10.96.0.7", 80, 6).backends == (Backend(SERVER, 8080),)
    assert services.bound("10.96.0.7", 80, 6, CLIENT) == Backend(SERVER, 8080)
    assert services.bound("10.96.0.7", 80, 6, OUTSIDE) is None
    assert snapshot.routes(4).get().of(SERVER).local_workload
    assert [one.address for one in snapshot.addresses.get()] == ["192.0.2.8"]
    assert isinstance(taken(node, "services_6").services(6).error, MapMissing)


def test_without_the_affinity_map_nobody_is_bound(node):
    del node.maps["cali_v4_nat_aff"]
    services = taken(node, "services_4").services(4).get()
    assert services.bound("10.96.0.7", 80, 6, CLIENT) is None
    node.maps["cali_v4_nat_aff"] = MapDenied("refused")
    assert str(taken(node, "services_4").services(4).error) == "refused"


def test_every_entry_is_counted_and_those_that_an_endpoint_denied_are_kept(node):
    found = taken(node, "conntrack").conntrack.get()
    assert found.counts == {
        (4, 17, "unreplied"): 2,
        (4, 6, "nat_reverse"): 1,
        (4, 6, "nat_forward"): 1,
        (4, 6, "syn_sent"): 2,
        (6, 17, "unreplied"): 1,
    }
    assert found.of_address[CLIENT, 17, "unreplied"] == 2
    assert found.of_address[SERVER, 17, "unreplied"] == 1
    assert found.of_address[CLIENT, 6, "nat_forward"] == 1
    assert not any(address == OUTSIDE for address, _, _ in found.of_address)
    assert (ends(found.entries), found.left_out, found.partial) == (DENIED_HERE, 0, False)
    assert found.age(next(one for one in found.entries if one.family == 4)) == 7.0


def test_entries_of_named_addresses_are_kept_too(node):
    found = taken(node, "conntrack", flows_of=lambda _: [OUTSIDE, "no address"]).conntrack.get()
    assert ends(found.entries) == {
        *DENIED_HERE,
        (CLIENT, OUTSIDE, 53),
        (OUTSIDE, "192.0.2.8", 22),
    }
    every = taken(node, "conntrack", flows_of=all_addresses).conntrack.get()
    assert len(every.entries) == 4
    assert {one.service for one in every.entries} == {None, Side("10.96.0.7", 80)}


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_no_more_are_kept_than_the_limit_and_the_rest_is_counted(node, monkeypatch, limit):
    monkeypatch.setattr(conntrack, "MAX_ENTRIES", limit)
    del node.maps["cali_v6_ct4"]
    found = taken(node, "conntrack", flows_of=all_addresses).conntrack.get()
    assert len(found.entries) == min(limit, 1) + min(limit, 2)
    assert len(found.entries) + found.left_out == 3
    assert sum(found.counts.values()) == 6


def test_a_map_in_batches_gives_what_it_gives_at_once(node, make):
    once = taken(node, "conntrack", flows_of=all_addresses).conntrack.get()
    whole = node.map_batches

    def one_by_one(name):
        for batch in whole(name):
            key, value = batch.info.key_size, batch.info.value_size
            for number in range(len(batch.keys) // key):
                part = slice(number * key, number * key + key), slice(number * value, number * value + value)
                yield replace(batch, keys=batch.keys[part[0]], values=batch.values[part[1]])

    node.map_batches = one_by_one
    again = taken(node, "conntrack", flows_of=all_addresses).conntrack.get()
    assert replace(again, entries=()) == replace(once, entries=())
    assert set(again.entries) == set(once.entries)


def test_of_two_versions_the_one_that_programs_use_or_that_was_used_last_is_read(node, make):
    old = flow(17, (OUTSIDE, 1), (SERVER, 1), *DENIED, first=1, last_seen=4_000_000_000, version=3)
    node.maps["cali_v4_ct3"] = make.table("cali_v4_ct3", 60, "hash", old)
    assert ends(taken(node, "conntrack").conntrack.get().entries) == DENIED_HERE
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    node.facts["programs"] = [make.program(7, 1, 60)]
    assert ends(taken(node, "conntrack").conntrack.get().entries) == {(OUTSIDE, SERVER, 1), (CLIENT6, SERVER6, 2)}


def test_the_flows_between_two_addresses_are_found_latest_first(node, make):
    legs = {"bits": APPROVED | OPENER}, {"bits": APPROVED}
    rows = [flow(17, (CLIENT, port), (SERVER, 9999), *legs, last_seen=port) for port in (1, 3, 2)]
    node.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 84, "lru_hash", *FLOWS, *rows)
    found = taken(node, "conntrack", flows_of=lambda _: [CLIENT]).conntrack.get()
    denied, *others = between(found, 17, CLIENT, SERVER, 9999)
    assert (denied.half_approved, denied.approved) == (True, False)
    assert [(one.source.port, one.approved) for one in others] == [(3, True), (2, True), (1, True)]
    (translated,) = between(found, 6, CLIENT, SERVER, 8080)
    assert (translated.service, translated.approved) == (Side("10.96.0.7", 80), True)
    assert between(found, 6, CLIENT, "10.96.0.7", 80) == ()
    assert between(found, 6, CLIENT, SERVER, 9999) == ()
    assert between(found, 17, SERVER, CLIENT, 9999) == ()


def test_one_family_is_enough_and_none_is_an_error(node):
    del node.maps["cali_v4_ct4"]
    assert ends(taken(node, "conntrack").conntrack.get().entries) == {(CLIENT6, SERVER6, 2)}
    del node.maps["cali_v6_ct4"]
    with pytest.raises(MapMissing, match="no IPv4 connection-tracking map on this node"):
        taken(node, "conntrack").conntrack.get()


# Bundles


@pytest.fixture
def opened(tmp_path):
    """Reads these bytes as a bundle."""

    def read(archive):
        path = tmp_path / "node.tar.xz"
        path.write_bytes(archive)
        return read_bundle(path)

    return read


def test_a_bundle_answers_as_its_node_does(make, node, opened):
    bundle = opened(make.bundled(node))
    snapshot = taken(bundle, "services_4", "routes_4", "addresses", "conntrack", flows_of=all_addresses)
    live = taken(node, "services_4", "routes_4", "addresses", "conntrack", flows_of=all_addresses)
    services = snapshot.services(4).get()
    assert services.find("10.96.0.7", 80, 6) == live.services(4).get().find("10.96.0.7", 80, 6)
    assert services.bound("10.96.0.7", 80, 6, CLIENT) == live.services(4).get().bound("10.96.0.7", 80, 6, CLIENT)
    assert snapshot.routes(4).get().of(SERVER) == live.routes(4).get().of(SERVER)
    assert snapshot.addresses.get() == live.addresses.get()
    found, expected = snapshot.conntrack.get(), live.conntrack.get()
    assert set(found.entries) == set(expected.entries)
    assert (found.at, found.of_address, found.partial) == (expected.at, expected.of_address, True)


def test_a_bundle_holds_the_flows_of_its_nodes_endpoints_only(make, node, opened):
    bundle = opened(make.bundled(node))
    (batch,) = bundle.map_batches("cali_v4_ct4")
    assert len(batch.keys) == 4 * 16


def test_a_bundle_of_many_flows_keeps_those_that_were_denied_first(make, node, opened, monkeypatch):
    monkeypatch.setattr("exporter.snapshot.bundled_maps.MAX_ENTRIES", 1)
    bundle = opened(make.bundled(node))
    found = taken(bundle, "conntrack", flows_of=all_addresses).conntrack.get()
    assert len([one for one in found.entries if one.family == 4]) == 2
    assert DENIED_HERE <= ends(found.entries)


def test_an_older_bundle_opens_and_says_what_it_has_not(recorded):
    bundle = recorded("v3.32.1/02-ingress-deny.after")
    snapshot = taken(bundle, "services_4", "routes_6", "addresses", "conntrack", "counters")
    assert snapshot.counters.get().rows
    start = "^this bundle was made by an older version and has no"
    for part, kind, what in [
        (snapshot.services(4), MapMissing, "IPv4 NAT frontend map"),
        (snapshot.routes(6), MapMissing, "IPv6 route map"),
        (snapshot.conntrack, MapMissing, "IPv4 connection-tracking map"),
        (snapshot.addresses, NodeError, "addresses of the node"),
    ]:
        with pytest.raises(kind, match=f"{start} {what}$"):
            part.get()


def test_a_real_nodes_tables_go_through_a_bundle(make, opened):
    tables = []
    for number, name in enumerate(("cali_v4_nat_fe3", "cali_v4_nat_be", "cali_v4_routes")):
        rows = recorded(name)
        entries = [
            (
                rows.keys[one * rows.key_size : (one + 1) * rows.key_size],
                rows.values[one * rows.value_size : (one + 1) * rows.value_size],
            )
            for one in range(len(rows.keys) // rows.key_size)
        ]
        tables.append(make.table(name, number, MAPS[name]["type"], *entries))
    snapshot = taken(opened(make.bundled(make.node(tables))), "services_4", "routes_4")
    web = snapshot.services(4).get().find("10.96.42.230", 80, 6)
    assert {one.address for one in web.backends} == {"10.244.145.199", "10.244.145.200"}
    assert all(snapshot.routes(4).get().of(one.address).local_workload for one in web.backends)


# Counted in slices, for the collector `conntrack`.

COUNTS = {
    (4, 17, "denied"): 1,
    (4, 17, "unreplied"): 1,
    (4, 6, "nat_reverse"): 1,
    (4, 6, "nat_forward"): 1,
    (4, 6, "syn_sent"): 2,
    (6, 17, "denied"): 1,
}


def counted(memory, source):
    return take_snapshot(source, Settings(), memory, ["conntrack_count"]).conntrack_count


def test_a_count_has_every_entry_by_state_and_those_of_local_addresses(node):
    found = counted(Memory(), node).get()
    assert COUNTS == found.counts
    assert {CLIENT: 4, SERVER: 2, CLIENT6: 1, SERVER6: 1} == found.of_address


def test_in_the_server_a_snapshot_has_the_last_count_and_counts_nothing(node):
    memory = Memory(map_counts=MapCounts(background=True))
    assert counted(memory, node).get() is None
    assert not [one for one in node.asked if one.startswith("batches ")]
    reading = Reading(node, Settings(), memory)
    assert 2 == len(list(reading.count_conntrack()))  # a slice for each small map
    node.maps.clear()
    assert COUNTS == counted(memory, node).get().counts


def test_a_large_map_is_counted_in_slices(node, monkeypatch, make):
    monkeypatch.setattr(conntrack_count, "_AT_ONCE", 2)
    memory = Memory()
    assert 4 == len(list(Reading(node, Settings(), memory).count_conntrack()))
    assert COUNTS == memory.conntrack_count.get().counts


def test_of_two_undecided_maps_the_one_that_changed_last_is_counted(node, make):
    old = make.table("cali_v4_ct3", 94, "hash", flow(6, (OUTSIDE, 2), ("192.0.2.8", 22), *ALLOWED, last_seen=1))
    node.maps["cali_v4_ct3"] = old
    assert COUNTS == counted(Memory(), node).get().counts


def test_a_count_that_fails_is_the_error_of_later_snapshots_until_another_works(node):
    memory, kept = Memory(map_counts=MapCounts(background=True)), dict(node.maps)
    node.maps["cali_v6_ct4"] = MapDenied("refused")
    list(Reading(node, Settings(), memory).count_conntrack())
    assert "refused" == str(counted(memory, node).error)
    node.maps = kept
    list(Reading(node, Settings(), memory).count_conntrack())
    assert COUNTS == counted(memory, node).get().counts


def test_one_family_without_a_map_has_no_entries_and_two_are_an_error(node):
    del node.maps["cali_v6_ct4"]
    assert {4} == {family for family, _, _ in counted(Memory(), node).get().counts}
    node.maps["cali_v4_ct4"] = MapMissing("none")
    assert isinstance(counted(Memory(), node).error, MapMissing)
