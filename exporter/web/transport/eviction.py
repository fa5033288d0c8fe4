"""Which connection is closed to admit a new one. Each step costs the same, however many connections there are."""

from collections import defaultdict
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.web.transport.connection import Connection

_LARGE_PART = 1 / 4


class State(Enum):
    """What a connection does: it waits for a request, a request of its is worked on, or its response is sent."""

    IDLE = "idle"
    WORKING = "working"
    SENDING = "sending"


class _Queues:
    """Connections by state, those that have been in it for longest first."""

    def __init__(self) -> None:
        self.of: dict[State, dict[Connection, None]] = {state: {} for state in State}

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    def first(self, *states: State) -> "Iterable[Connection]":
        return (next(iter(self.of[state])) for state in states if self.of[state])


class Admitted:
    """The open connections, at most `maximum`; one is protected for the first `protected` seconds of sending."""

    def __init__(self, maximum: int, protected: float) -> None:
        self.maximum = maximum
        self._protected = protected
        self._all = _Queues()
        self._clients: defaultdict[str, _Queues] = defaultdict(_Queues)
        self._large: set[str] = set()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: "Connection") -> None:
        """Takes in a new connection."""
        for queues in (self._all, self._clients[connection.client]):
            queues.of[connection.state][connection] = None
        self._count(connection.client)

    def move(self, connection: "Connection", state: State) -> None:
        """Notes that a connection enters this state."""
        if connection in self._all.of[connection.state]:  # else it was evicted
            for queues in (self._all, self._clients[connection.client]):
                del queues.of[connection.state][connection]
                queues.of[state][connection] = None

    def remove(self, connection: "Connection") -> None:
        """Forgets a connection, if it has not been already."""
        if connection in self._all.of[connection.state]:
            for queues in (self._all, self._clients[connection.client]):
                del queues.of[connection.state][connection]
            self._count(connection.client)

    def choose(self, now: float) -> "Connection | None":
        """The connection to evict, or None if all are worked on.

        The longest-idle one; but of an address with a large part of all connections any: else the many requests of
        one client would exclude all others.
        """
        if self._large:
            crowding = self._clients[max(self._large, key=lambda client: len(self._clients[client]))]
            return _oldest(self._unprotected(crowding, now)) or _oldest(crowding.first(*State))
        return _oldest(self._unprotected(self._all, now)) or _oldest(self._all.first(State.SENDING))

    def unprotected(self, now: float) -> "list[Connection]":
        """All that may be closed now."""
        sending = (one for one in self._all.of[State.SENDING] if self._is_slow(one, now))
        return [*self._all.of[State.IDLE], *sending]

    def _unprotected(self, queues: _Queues, now: float) -> "Iterable[Connection]":
        yield from queues.first(State.IDLE)
        yield from (one for one in queues.first(State.SENDING) if self._is_slow(one, now))

    def _is_slow(self, connection: "Connection", now: float) -> bool:
        return connection.since + self._protected < now

    def _count(self, client: str) -> None:
        number = len(self._clients[client])
        if number > self.maximum * _LARGE_PART:
            self._large.add(client)
        else:
            self._large.discard(client)
        if not number:
            del self._clients[client]


def _oldest(connections: "Iterable[Connection]") -> "Connection | None":
    return min(connections, key=lambda one: one.since, default=None)
