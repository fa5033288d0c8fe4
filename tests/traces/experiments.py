"""The experiments of `experiments.tar.xz`: a node before a packet was sent, the packet, and what the node counted."""

import functools
import json
import tarfile
from pathlib import Path

from exporter.archive import write_archive
from exporter.calico.packet import Packet
from exporter.calico.protocols import PROTOCOLS
from exporter.snapshot.bundle import Bundle

ARCHIVE = Path(__file__).with_name("experiments.tar.xz")
# Their packet was decided elsewhere, by connection tracking or by a program that was not attached.
SHAPES = ("v3.32.1/43-hep-forward-egress-deny", "v3.32.1/44-hep-normal-deny", "v3.33/46-hep-xdp-deny")
INGRESS, EGRESS = "ingress", "egress"


class Experiment:
    """One experiment; `case` is its `case.json`."""

    def __init__(self, name, members):
        self.name = name
        self.case = json.loads(members["case.json"])
        self._members = {key: value for key, value in members.items() if key != "case.json"}

    @functools.cached_property
    def bundle(self):
        return Bundle(self._members)

    def write_bundle(self, path):
        """Writes the bundle to a file, as the command would have it."""
        with path.open("wb") as file:
            write_archive(self._members, file)
        return path

    @property
    def packet(self):
        """The packet, after service translation."""
        case, icmp = self.case, self.case["icmp"] or {}
        return Packet(
            4,
            case["src_ip"],
            case["dst_ip"],
            PROTOCOLS.get(case["protocol"], case["protocol"]),
            case["sport"] or 0,
            case["dport"] or 0,
            icmp.get("type", 0),
            icmp.get("code", 0),
            (case["nat"]["dst_ip"], case["nat"]["dport"]) if case["nat"] else None,
        )

    @property
    def programs(self):
        """(interface, direction of the policy, what was counted) of each program that the packet reached."""
        expected = self.case["expected"]
        hooks = expected.get("host_interface") or {}
        every = [
            (expected["source_egress"], EGRESS),
            (expected["destination_ingress"], INGRESS),
            (hooks.get("ingress_hook"), INGRESS),
            (hooks.get("egress_hook"), EGRESS),
        ]
        return [
            (counted["interface"], way, counted)
            for counted, way in every
            if counted and counted["verdict"] != "not evaluated"
        ]

    def check(self, counted, verdict, rule_ids):
        """Asserts that a verdict and the ids on its way are what was counted."""
        recorded = set(map(int, counted["rule_ids"]))
        others = set(map(int, self.case["other_rule_ids_that_moved"]))
        assert counted["verdict"] == verdict
        assert recorded <= set(rule_ids) <= recorded | others


@functools.cache
def experiments():
    """Every experiment by its name, `<release>/<experiment>`."""
    members = {}
    with tarfile.open(ARCHIVE) as archive:
        for one in archive:
            release, experiment, name = one.name.split("/", 2)
            members.setdefault(f"{release}/{experiment}", {})[name] = archive.extractfile(one).read()
    return {name: Experiment(name, members[name]) for name in sorted(members)}
