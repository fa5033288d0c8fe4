"""Finds drops that no counter sees: packets of a pod that the kernel received and Calico's program did not.

A program in front of Calico's can drop them, or Calico's own cannot run (a failed tail call drops every packet before a
counter moves). Pure functions of two snapshots. What is compared is what the pod sent: the packets that the kernel
received on the host side of its interface, and those that entered the program at tc_ingress.
"""

from collections.abc import Mapping
from typing import NamedTuple

from exporter.calico.counters import DROPPED, TOTAL_PACKETS
from exporter.calico.hooks import TC_HOOKS, TC_INGRESS
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.snapshot.snapshot import Snapshot

PARTS = frozenset({"counters", "endpoints", "received"})
# The two are not read at the same moment, so a few packets say nothing.
_MIN_PACKETS, _PROGRAM_SHARE = 20, 10
# Linux's default gro_max_size: packets of bulk data are merged up to this size before the program sees them.
_MERGED_BYTES, _BULK_BYTES = 65536, 512


class Sent(NamedTuple):  # one for each pod at each scrape: four times as fast as a dataclass
    """What a pod sent since its interface was created: as the kernel and as Calico's program counted it."""

    packets: int
    bytes: int
    program: int

    def since(self, before: "Sent") -> "Sent":
        """The difference; nothing where a counter was reset, since the two no longer cover the same time."""
        if self.packets < before.packets or self.program < before.program:
            return Sent(0, 0, 0)
        return Sent(self.packets - before.packets, self.bytes - before.bytes, self.program - before.program)

    @property
    def missed(self) -> int:
        """The packets that did not enter the program, if it saw (nearly) none; else 0."""
        merged = self.bytes >= _BULK_BYTES * self.packets and self.program * _MERGED_BYTES >= self.bytes
        nearly_none = self.program * _PROGRAM_SHARE < self.packets and not merged
        return self.packets - self.program if nearly_none else 0


def sent_by_pods(snapshot: Snapshot) -> dict[tuple[int, str], Sent]:
    """What each pod with Calico's programs in place sent, by interface index and name.

    Raises the error of the counters or of what the kernel received.
    """
    rows, received = snapshot.counters.get().rows, snapshot.received.get()
    idle = (0,) * (TOTAL_PACKETS + 1)
    return {
        (one.ifindex, one.interface): Sent(
            *received[one.interface], rows.get((one.ifindex, TC_INGRESS), idle)[TOTAL_PACKETS]
        )
        for one in (snapshot.endpoints.get().by_index.values() if snapshot.endpoints.get().links_known else ())
        if one.kind == WORKLOAD and one.state and one.state.has_programs and one.interface in received
    }


def uncounted(
    before: Mapping[tuple[int, str], Sent], after: Mapping[tuple[int, str], Sent]
) -> frozenset[tuple[int, str]]:
    """The interfaces that were in both snapshots and whose pod's packets did not reach the program in between."""
    both = ((key, sent, before[key]) for key, sent in after.items() if key in before)
    return frozenset(
        key for key, sent, was in both if sent.packets - was.packets >= _MIN_PACKETS and sent.since(was).missed
    )


def is_suspect(snapshot: Snapshot) -> bool:
    """Whether a second snapshot is worth taking: a pod's packets did not reach the program since its counters began."""
    if snapshot.counters.error or snapshot.received.error:
        return False
    sent = sent_by_pods(snapshot)
    return bool(uncounted(dict.fromkeys(sent, Sent(0, 0, 0)), sent))


def uncounted_of(before: Snapshot, after: Snapshot, endpoint: Endpoint) -> int:
    """The packets of this endpoint that were dropped in between and not counted; 0 where nothing shows that any were.

    The drops of its clsact queueing discipline, where there is one, are evidence for fewer packets: Calico's program
    counts each packet before it drops it.
    """
    key = endpoint.ifindex, endpoint.interface
    counted = [one.counters.error or one.received.error for one in (before, after)]
    sent, earlier = ({}, {}) if any(counted) else (sent_by_pods(after), sent_by_pods(before))
    passed = sent[key].since(earlier[key]) if key in sent and key in earlier else Sent(0, 0, 0)
    if passed.packets >= _MIN_PACKETS and passed.missed:
        return passed.missed
    dropped = _queue_drops(before, after, endpoint.ifindex)
    entered, denied = _program_packets(before, after, endpoint.ifindex)
    if passed.missed and (dropped - denied) * 10 >= passed.missed * 9:
        return passed.missed
    # A lower bound: whatever entered the program may be among them. A few may be of the time between two readings.
    surplus = dropped - entered
    return surplus if surplus > 0 and surplus * 10 >= dropped else 0


def _queue_drops(before: Snapshot, after: Snapshot, ifindex: int) -> int:
    """What its clsact queueing discipline dropped in between."""
    if before.queue_drops.error or after.queue_drops.error:
        return 0
    drops, earlier = after.queue_drops.get().get(ifindex), before.queue_drops.get().get(ifindex)
    return 0 if drops is None or earlier is None else max(drops - earlier, 0)


def _program_packets(before: Snapshot, after: Snapshot, ifindex: int) -> tuple[int, int]:
    """The packets that entered Calico's tc programs in between, and those of them that were dropped for a reason."""
    entered = denied = 0
    slots = after.counters.get().layout.slots
    for hook in TC_HOOKS:
        row = after.counters.get().rows.get((ifindex, hook))
        if row is None:
            continue
        earlier = before.counters.get().rows.get((ifindex, hook), (0,) * len(row))
        fell = row[TOTAL_PACKETS] < earlier[TOTAL_PACKETS]
        moved = row if fell else tuple(now - then for now, then in zip(row, earlier, strict=True))
        entered += moved[TOTAL_PACKETS]
        denied += sum(moved[slot.number] for slot in slots if slot.category == DROPPED)
    return entered, denied
