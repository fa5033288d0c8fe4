"""Nodes made in memory, snapshots of them, recordings of real ones, and one dump compared with another.

The fixtures at its end are for the conftest of each package that needs them.
"""

import functools
import io
import ipaddress
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from exporter.bpf.accounting import MapUsage
from exporter.bpf.maps import MapDump, MapInfo, MapMissing, ProgramInfo, sum_over_cpus, unchecked
from exporter.calico import LayoutError
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.netlink import HostRoute, Link, NodeAddress
from exporter.node.nic import Nic, NicCounters
from exporter.node.policies import policies_of
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.bundle_writer import PARTS as BUNDLE_PARTS
from exporter.snapshot.bundle_writer import write_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import is_policy_file_of
from tests.parts import EVERY_PART

RECORDINGS = Path(__file__).parent / "recordings"
FACTS = (
    "links",
    "host_routes",
    "addresses",
    "nics",
    "attach_point_folders",
    "endpoint_status",
    "policy_files",
    "cluster_pods",
)
ABSENT = Folder(present=False, files={}, problems=())


class FakeNode:
    """A node of plain facts. An exception in a fact's place is raised; every question is counted in `asked`."""

    reader_name = "fake"

    def __init__(self, maps=(), **facts):
        """`maps` are dumps; `facts` are those of `NodeSource` by name, and `pin_names` where they differ from maps."""
        self.maps = {dump.info.name: dump for dump in maps}
        self.facts = {"programs": (), "links": (), "host_routes": (), "nics": {}, "attach_point_folders": ()}
        self.facts |= {"addresses": (), "interfaces_to": {}, "clock_ns": None, "queue_drops": {}, "run_dir": None}
        self.facts |= {"endpoint_status": ABSENT, "policy_files": ABSENT, "cluster_pods": None, "packets": None} | facts
        self.asked = Counter()

    @classmethod
    def like(cls, source):
        """The same facts as another source's."""
        facts = {name: fact_of(source, name) for name in FACTS}
        return cls([source.map_dump(name) for name in source.pin_names()], **facts)

    def _fact(self, name):
        self.asked[name] += 1
        return _value_or_raise(self.facts[name])

    def pin_names(self):
        return list(self._fact("pin_names") if "pin_names" in self.facts else self._counted("pin_names", self.maps))

    def _counted(self, name, fact):
        self.asked[name] += 1
        return fact

    def attach_point_folders(self):
        return list(self._fact("attach_point_folders"))

    def map_info(self, name):
        self.asked[f"info {name}"] += 1
        return self._map(name).info

    def map_usage(self, name):
        self.asked[f"usage {name}"] += 1
        return MapUsage(self._map(name).info, None)

    def map_dump(self, name, *, sum_cpus=False, check=unchecked):
        self.asked[f"dump {name}"] += 1
        dump = self._map(name)
        try:
            check(dump.info)
        except LayoutError:
            self.asked[f"dump {name}"] -= 1  # its content was not read
            raise
        return sum_over_cpus(dump) if sum_cpus else dump

    def map_batches(self, name):
        self.asked[f"batches {name}"] += 1
        dump = self._map(name)
        yield MapDump(dump.info, dump.keys, dump.values)

    def predates(self, _):
        return False

    def clock_ns(self):
        return self.facts["clock_ns"]

    def addresses(self):
        return tuple(self._fact("addresses"))

    def interfaces_to(self, addresses):
        return {one: ifindex for one, ifindex in self._fact("interfaces_to").items() if one in addresses}

    def _map(self, name):
        return _value_or_raise(self.maps.get(name, MapMissing(f"{name} does not exist")))

    def map_values(self, name, keys):
        self.asked[f"values {name}"] += 1
        found = dict(self._map(name).entries())
        return [found.get(key) for key in keys]

    def programs(self, ids):
        return [program for program in self._fact("programs") if program.id in ids]

    def cluster_pods(self):
        return self._fact("cluster_pods")

    def packets(self):
        return self._fact("packets")

    def links(self):
        return tuple(self._fact("links"))

    def host_routes(self):
        return tuple(self._fact("host_routes"))

    def nics(self):
        return dict(self._fact("nics"))

    def received(self):
        self.asked["received"] += 1
        nics = _value_or_raise(self.facts["nics"])
        return {name: (nic.received.packets, nic.received.bytes) for name, nic in nics.items()}

    def check_run_dir(self):
        self._fact("run_dir")

    def queue_drops(self):
        return dict(self._fact("queue_drops"))

    def endpoint_status(self):
        return self._fact("endpoint_status")

    def policy_files(self, interfaces=None):
        folder = self._fact("policy_files")
        if interfaces is None:
            return folder
        return replace(folder, files={k: one for k, one in folder.files.items() if is_policy_file_of(k, interfaces)})

    def policies(self):
        self.asked["policies"] += 1
        return policies_of(_value_or_raise(self.facts["policy_files"]))

    def policy_file_names(self):
        self.asked["policy_file_names"] += 1
        return sorted(_value_or_raise(self.facts["policy_files"]).files)


def fact_of(source, name):
    """A fact of a source, or the error in its place."""
    try:
        return getattr(source, name)()
    except NodeError as error:
        return error


def _same_facts(one, other):
    pairs = ((fact_of(one, name), fact_of(other, name)) for name in FACTS)
    return all(str(left) == str(right) if isinstance(left, NodeError) else left == right for left, right in pairs)


def _value_or_raise(fact):
    if isinstance(fact, Exception):
        raise fact
    return fact


def _map(name, number, kind, keys, values):
    pin = f"/sys/fs/bpf/tc/globals/{name}"
    info = MapInfo(pin, number, name, kind, keys.shape[1], values.shape[2], 20000, 0)
    return MapDump(info, keys.tobytes(), values.tobytes(), values.shape[1])


def _counters(name, number, rows, slots=27):
    """A counter map of two CPUs from {(ifindex, hook): {slot: value}}."""
    keys = np.array(list(rows), "<u4").reshape(-1, 2)
    values = np.zeros((len(rows), 2, slots), "<u8")
    for row, given in enumerate(rows.values()):
        for slot, value in given.items():
            values[row, :, slot] = value // 2, value - value // 2
    return _map(name, number, "percpu_hash", keys.view(np.uint8), values.view(np.uint8))


def _ifstate(name, number, rows, size=52):
    """An interface state map from {ifindex: (name, flags)}."""
    keys = np.array(list(rows), "<u4").reshape(-1, 1)
    values = np.full((len(rows), 1, size), 0xFF, np.uint8)
    for row, (interface, flags) in enumerate(rows.values()):
        head = flags.to_bytes(4, "little") + interface.encode().ljust(16, b"\0")
        values[row, 0, :20] = list(head)
    return _map(name, number, "hash", keys.view(np.uint8), values)


def _plain(name, number, rows, kind="percpu_hash"):
    """Any other map, from {u32 or u64 key: u32 or u64 value}: rule counters, or an array of programs."""
    word = "<u4" if kind == "prog_array" else "<u8"
    keys = np.array(list(rows), word).reshape(-1, 1)
    values = np.array(list(rows.values()), word).reshape(-1, 1, 1)
    return _map(name, number, kind, keys.view(np.uint8), values.view(np.uint8))


def _ip_sets(name, number, *members):
    """An IP-set map from addresses, all of them in set 1."""
    addresses = [ipaddress.ip_address(one) for one in members]
    heads = [(64 + one.max_prefixlen).to_bytes(4, "little") + (1).to_bytes(8, "big") for one in addresses]
    raw = [head + one.packed + bytes(4) for head, one in zip(heads, addresses, strict=True)]
    keys = np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), -1)
    return _map(name, number, "lpm_trie", keys, np.ones((len(raw), 1, 4), np.uint8))


def _failsafes(name, number, *ports, outbound=False):
    """A failsafe map of inbound or outbound ports from (protocol, port, net)."""
    keys = []
    for protocol, port, net in ports:
        peers = ipaddress.ip_network(net)
        head = (32 + peers.prefixlen).to_bytes(4, "little") + port.to_bytes(2, "little") + bytes((protocol, outbound))
        keys.append(head + peers.network_address.packed)
    raw = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
    return _map(name, number, "lpm_trie", raw, np.zeros((len(keys), 1, 4), np.uint8))


def _table(name, number, kind, *entries):
    """A map with one value for each key, from entries (key, value) of bytes."""
    keys, values = (np.frombuffer(b"".join(column), np.uint8) for column in zip(*entries, strict=True))
    return _map(name, number, kind, keys.reshape(len(entries), -1), values.reshape(len(entries), 1, -1))


def _moved(dump, packets=1):
    """The same map after more packets in the first slot of its first entry."""
    first = int.from_bytes(dump.values[:8], "little") + packets
    return replace(dump, values=first.to_bytes(8, "little") + dump.values[8:])


def held(given):
    """Of the objects in this list, each also in nothing else of the test's, those that somebody else holds."""
    return [one for one in given if len(one) > 1 and sys.getrefcount(one) > 3]  # the list, the loop and the call


def _snapshot(source, memory=None, parts=EVERY_PART, **settings):
    return take_snapshot(source, Settings(**settings), memory or Memory(), parts)


def is_undecided(snapshot):
    """Whether several counter maps are pinned and none is proven to be the live one."""
    return snapshot.counter_map.get().choice.live is None


def _same_dump(one, other):
    return one == other and {bytes} == {type(raw) for dump in (one, other) for raw in (dump.keys, dump.values)}


def _bundled(source, about=None, memory=None):
    """The archive that is written of this source."""
    target = io.BytesIO()
    write_bundle(source, _snapshot(source, memory, EVERY_PART | BUNDLE_PARTS), about or {}, target)
    return target.getvalue()


def _archive(members):
    """An uncompressed archive of these members; one whose content is a `TarInfo` is written as that header alone."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def _members(archive):
    """The members of an archive of regular files."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}


@functools.cache
def _recorded(name):
    return read_bundle(RECORDINGS / f"{name}.tar.xz")


class Make(SimpleNamespace):
    def __repr__(self):
        return "make"  # it is an argument of every law, and a failing law prints its arguments


@pytest.fixture(scope="session")
def make():
    """Makes nodes, maps, links, routes, programs, folders, snapshots and archives."""
    return Make(
        node=FakeNode,
        like=FakeNode.like,
        counters=_counters,
        ifstate=_ifstate,
        rules=_plain,
        ip_sets=_ip_sets,
        failsafes=_failsafes,
        table=_table,
        programs=lambda name, number, *ids: _plain(name, number, dict(enumerate(ids)), "prog_array"),
        program=lambda number, load_time, *maps: ProgramInfo(number, load_time, maps),
        moved=_moved,
        link=Link,
        route=HostRoute,
        address=NodeAddress,
        nic=lambda received, sent: Nic(NicCounters(*received), NicCounters(*sent)),
        folder=lambda *problems, **files: Folder(present=True, files=files, problems=problems),
        snapshot=_snapshot,
        same_dump=_same_dump,
        same_facts=_same_facts,
        bundled=_bundled,
        archive=_archive,
        members=_members,
    )


@pytest.fixture(scope="session")
def recorded():
    """Opens the recording of this name, below tests/recordings and without its suffix, as a `Bundle`."""
    return _recorded
