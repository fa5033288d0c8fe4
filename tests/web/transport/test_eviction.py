"""Which connection makes way for a new one, and what it costs to find it."""

import asyncio
import gc
import time
import weakref
from dataclasses import dataclass

import pytest

from exporter.web.transport.connection import Connection
from exporter.web.transport.eviction import Admitted
from exporter.web.transport.phases import Limits, Phase

IDLE, WORKING, SENDING = Phase.IDLE, Phase.WORKING, Phase.SENDING


@dataclass(eq=False)
class Open:
    """Stands for a connection."""

    client: str
    since: float
    phase: Phase = IDLE
    unsent: bytes = b""


def admitted(*connections, maximum=20):
    """Those connections, each of an address, a time and a phase."""
    found = Admitted(maximum, protected=5)
    for one in connections:
        found.add(one)
    return found


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ([(1, IDLE), (0, WORKING), (2, IDLE)], 0),
        ([(0, WORKING), (90, IDLE), (91, SENDING)], 1),
        ([(10, SENDING), (90, IDLE)], 0),  # slow to read
        ([(97, SENDING), (98, SENDING), (0, WORKING)], 0),
        ([(0, WORKING), (1, WORKING)], None),
    ],
)
def test_the_longest_idle_is_chosen_and_none_that_is_worked_on(states, chosen):
    connections = [Open(f"10.0.0.{number}", *one) for number, one in enumerate(states)]
    found = admitted(*connections).choose(now=100)
    assert found is (None if chosen is None else connections[chosen])


def test_of_an_address_with_a_large_part_of_all_any_is_chosen():
    crowd = [Open("10.0.0.9", 50 + number, WORKING) for number in range(6)]
    other = Open("10.0.0.1", 0)
    everyone = admitted(other, *crowd)
    assert crowd[0] is everyone.choose(now=100)
    everyone.move(crowd[4], IDLE)
    crowd[4].phase = IDLE
    assert crowd[4] is everyone.choose(now=100)
    everyone.remove(crowd[0])
    assert other is everyone.choose(now=100)


def test_what_was_removed_is_gone_and_may_still_change():
    one, other = Open("a", 0), Open("b", 1)
    everyone = admitted(one, other)
    everyone.remove(one)
    everyone.move(one, WORKING)
    everyone.remove(one)
    assert (1, other) == (len(everyone), everyone.choose(now=100))
    everyone.remove(other)
    assert (0, None, {}) == (len(everyone), everyone.choose(now=100), dict(everyone._clients))


def test_of_bodies_that_are_sent_the_newest_stay_and_one_that_several_share_counts_once():
    large, shared, small = bytes(60), bytes(50), bytes(10)
    bodies = [small, large, shared, shared, small, shared]
    connections = [Open(f"10.0.0.{number}", number, SENDING, body) for number, body in enumerate(bodies)]
    assert [connections[1]] == admitted(*connections).beyond(100)
    assert [] == admitted(connections[1]).beyond(10)  # one that is larger than all that is allowed


def cost(number, clients):
    """Seconds of CPU for 2,000 admissions where so many connections are open, the least of some attempts."""
    everyone = admitted(*(Open(f"a{place % clients}", place) for place in range(number)), maximum=number)

    def admit():
        start = time.thread_time()
        for now in range(number, number + 2000):
            everyone.remove(everyone.choose(now))
            everyone.add(Open(f"a{now % clients}", now))
        return time.thread_time() - start

    return min(admit() for _ in range(5))


# An admission beside 512 connections took 1.4 ms.
@pytest.mark.parametrize("clients", [1, 512])
def test_an_admission_costs_the_same_beside_8_and_512_connections(clients):
    assert cost(512, clients) < 3 * cost(8, clients)


class Silent:
    """A stream whose client sends nothing until it is `gone`."""

    def __init__(self, gone):
        self._gone = gone

    async def open(self):
        pass

    async def read(self, size):
        await self._gone.wait()
        return b""

    async def end(self, *, still_sending):
        pass


@pytest.mark.parametrize("ended", ["evicted", "too slow", "closed by its client"])
def test_a_connection_that_has_ended_is_freed_without_a_garbage_collection(ended):
    """The buffers of TLS are large and no Python objects: many would be dead before a collection seems worth it."""

    async def left():
        gone, limits = asyncio.Event(), Limits({Phase.OPENING: 0.01 if ended == "too slow" else 60.0})
        task = asyncio.create_task(Connection(Silent(gone), limits).serve(None))
        await asyncio.sleep(0)
        stream = weakref.ref(task.get_coro().cr_frame.f_locals["self"].stream)
        if ended == "evicted":
            task.cancel()
        elif ended == "closed by its client":
            gone.set()
        await asyncio.wait({task})
        assert task.cancelled() == (ended == "evicted")
        del task
        await asyncio.sleep(0)
        return stream()

    gc.disable()
    try:
        assert asyncio.run(left()) is None
    finally:
        gc.enable()
