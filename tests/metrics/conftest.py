"""A node made of plain facts, snapshots of it and of recordings of real ones, and samples as a table."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.bpf.maps import MapDump, MapInfo, MapMissing, sum_over_cpus, unchecked
from exporter.metrics.exposition import TEXT, render
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.netlink import HostRoute, Link
from exporter.node.policies import policies_of
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading, take_snapshot
from exporter.snapshot.settings import Settings
from tests.kernel.conftest import give_up
from tests.parts import EVERY_PART

ROOT = Path(__file__).parents[2]
CPUS = 2


@dataclass
class Node:
    """A `NodeSource` over a test's facts; an exception in place of a fact is raised when it is read."""

    maps: dict = field(default_factory=dict)
    link_rows: object = ()
    route_rows: object = ()
    status: object = field(default_factory=lambda: Folder(present=False, files={}, problems=()))
    policy_names: object = ()
    nic_rows: object = field(default_factory=dict)
    cluster: object = None
    run_dir: object = None
    reader_name: str = "fake"

    def cluster_pods(self):
        return _value_or_raise(self.cluster)

    def pin_names(self):
        return sorted(self.maps)

    def attach_point_folders(self):
        return []

    def predates(self, _):
        return False

    def map_info(self, name):
        return self.map_dump(name).info

    def map_dump(self, name, *, sum_cpus=False, check=unchecked):
        if name not in self.maps:
            raise MapMissing(f"{name} does not exist")
        dump = _value_or_raise(self.maps[name])
        check(dump.info)
        return sum_over_cpus(dump) if sum_cpus else dump

    def programs(self, ids):
        return []

    def links(self):
        return tuple(_value_or_raise(self.link_rows))

    def clock_ns(self):
        return None

    def host_routes(self):
        return tuple(_value_or_raise(self.route_rows))

    def addresses(self):
        return ()

    def nics(self):
        return dict(_value_or_raise(self.nic_rows))

    def received(self):
        return {name: (nic.received.packets, nic.received.bytes) for name, nic in self.nics().items()}

    def check_run_dir(self):
        _value_or_raise(self.run_dir)

    def queue_drops(self):
        return {}

    def endpoint_status(self):
        return _value_or_raise(self.status)

    def policy_files(self):
        return Folder(present=True, files=dict.fromkeys(self.policy_file_names(), b"{}"), problems=())

    def policies(self):
        return policies_of(self.policy_files())

    def policy_file_names(self):
        return list(_value_or_raise(self.policy_names))


def _value_or_raise(fact):
    if isinstance(fact, Exception):
        raise fact
    return fact


def _map(name, kind, keys, values):
    info = MapInfo(name, len(name), name, kind, keys.shape[1], values.shape[2], 20000, 0)
    return MapDump(info, keys.tobytes(), values.tobytes(), values.shape[1])


def _counters(entries, slots, name):
    """A counter map from {(ifindex, hook): {slot: value}}; the last CPU holds one of each value, the first the rest."""
    keys = np.array(list(entries), "<u4").reshape(len(entries), 2)
    values = np.zeros((len(entries), CPUS, slots), "<u8")
    for row, slot_values in enumerate(entries.values()):
        for slot, value in slot_values.items():
            values[row, -1, slot] = min(value, 1)
            values[row, 0, slot] = value - min(value, 1)
    return _map(name, "percpu_hash", keys.view("u1"), values.view("u1"))


def _ifstate(states, name="cali_iface4"):
    """An interface state map from {ifindex: (name, flags)}."""
    keys = np.array(list(states), "<u4").reshape(-1, 1)
    values = np.zeros((len(states), 1, 52), "u1")
    for row, (interface, flags) in enumerate(states.values()):
        raw = flags.to_bytes(4, "little") + interface.encode()[:15]
        values[row, 0, : len(raw)] = list(raw)
    return _map(name, "hash", keys.view("u1"), values)


def _status(pods):
    files = {}
    for interface, (namespace, pod, *nets) in pods.items():
        fields = {"ifaceName": interface, "ipv4Nets": nets}
        files[f"k8s {namespace}%2F{pod} eth0"] = json.dumps(fields).encode()
    return Folder(present=True, files=files, problems=())


@pytest.fixture(scope="session")
def node():
    """Makes a `Node`: `entries` {(ifindex, hook): {slot: value}}, `states` {ifindex: (name, flags)}, `links` and
    `routes` as pairs, `pods` {interface: (namespace, pod, *nets)}; `entries=None` and `states=None` leave a map out.
    The kernel has lo and the interfaces in `states`, unless `links` says otherwise; its links cannot be read where
    `links` is an error, or where neither is given.
    """

    def make(
        entries=None, states=None, *, slots=27, links=None, routes=(), pods=(), policy_names=(), pin="cali_counters6"
    ):
        maps = {}
        if entries is not None:
            maps[pin] = _counters(entries, slots, pin)
        if states is not None:
            maps["cali_iface4"] = _ifstate(states)
        if links is None:
            here = {1: "lo"} | {index: name for index, (name, _) in (states or {}).items()}
            links = list(here.items()) if states else NodeError("links cannot be read")
        rows = links if isinstance(links, Exception) else [Link(*row) for row in links]
        made = Node(maps, rows, [HostRoute(*row) for row in routes], policy_names=policy_names)
        if pods:
            made.status = _status(pods)
        return made

    return make


@pytest.fixture(scope="session")
def snapshot_of():
    """A snapshot of a source."""

    def take(source, memory=None, parts=EVERY_PART | {"map_fills"}, **settings):
        return take_snapshot(source, Settings(**settings), memory or Memory(), parts)

    return take


@pytest.fixture(scope="session")
def read_of():
    """A function that reads parts of one snapshot of a source for collectors."""
    return lambda source: Reading(source, Settings(), Memory()).read


@pytest.fixture(scope="session")
def recorded(snapshot_of):
    """A snapshot of a recording, by its path under tests/recordings."""

    def take(name, memory=None, parts=EVERY_PART | {"map_fills"}):
        bundle = read_bundle(ROOT / "tests" / "recordings" / f"{name}.tar.xz")
        memory = memory or Memory()
        memory.counters.proven = memory.counters.proven or bundle.proven_live()
        return snapshot_of(bundle, memory, parts)

    return take


def rows_of(samples):
    """Samples as text: (family, label values, value) of each, in their order."""
    families = parse_text(render(samples, TEXT).decode())
    return [(one.name, tuple(one.labels.values()), one.value) for family in families for one in family.samples]


def series_of(samples, family):
    """The samples of one family as text, {label values: value}; two with equal labels are an error."""
    found = [row[1:] for row in rows_of([one for one in samples if one.family == family])]
    table = dict(found)
    assert len(table) == len(found)
    return table


@pytest.fixture(scope="session")
def rows():
    return rows_of


@pytest.fixture(scope="session")
def series():
    return series_of


@pytest.fixture(scope="session")
def promtool():
    """The path of promtool, installed by `make setup`."""
    path = ROOT / ".tools" / "bin" / "promtool"
    if not path.exists():
        give_up("promtool is not here: `make setup` as root brings it")
    return path
