"""Which connection is closed to admit a new one. Each step costs the same, however many connections there are."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from exporter.web.transport.phases import NOTHING_IN_PROGRESS, Phase

if TYPE_CHECKING:
    from exporter.web.transport.connection import Connection

_LARGE_PART = 1 / 4


class _Queues:
    """Connections by phase, those that have been in it for longest first."""

    def __init__(self) -> None:
        self.of: dict[Phase, dict[Connection, None]] = {phase: {} for phase in Phase}

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    def first(self, *phases: Phase) -> "Iterable[Connection]":
        return (next(iter(self.of[phase])) for phase in phases if self.of[phase])


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
            queues.of[connection.phase][connection] = None
        self._count(connection.client)

    def move(self, connection: "Connection", phase: Phase) -> None:
        """Notes that a connection enters this phase."""
        if connection in self._all.of[connection.phase]:  # else it was evicted
            for queues in (self._all, self._clients[connection.client]):
                del queues.of[connection.phase][connection]
                queues.of[phase][connection] = None

    def remove(self, connection: "Connection") -> None:
        """Forgets a connection, if it has not been already."""
        if connection in self._all.of[connection.phase]:
            for queues in (self._all, self._clients[connection.client]):
                del queues.of[connection.phase][connection]
            self._count(connection.client)

    def choose(self, now: float) -> "Connection | None":
        """The connection to evict, or None if all are worked on.

        The longest-idle one; but of an address with a large part of all connections any: else the many requests of
        one client would exclude all others.
        """
        if self._large:
            crowding = self._clients[max(self._large, key=lambda client: len(self._clients[client]))]
            return _oldest(self._unprotected(crowding, now)) or _oldest(crowding.first(*Phase))
        return _oldest(self._unprotected(self._all, now)) or _oldest(self._all.first(Phase.SENDING))

    def unprotected(self, now: float) -> "list[Connection]":
        """All that may be closed now."""
        sending = (one for one in self._all.of[Phase.SENDING] if self._is_slow(one, now))
        return [*(one for phase in NOTHING_IN_PROGRESS for one in self._all.of[phase]), *sending]

    def beyond(self, size: int) -> "list[Connection]":
        """Those that are being sent bodies which, with the newer ones, are larger than `size`; the newest is kept.

        Clients that request one body after another and do not read would keep all of them in memory.
        """
        kept: dict[int, int] = {}
        found = []
        for connection in reversed(self._all.of[Phase.SENDING]):
            body = connection.unsent
            if id(body) not in kept and kept and sum(kept.values()) + len(body) > size:
                found.append(connection)
            else:
                kept[id(body)] = len(body)
        return found

    def _unprotected(self, queues: _Queues, now: float) -> "Iterable[Connection]":
        yield from queues.first(*NOTHING_IN_PROGRESS)
        yield from (one for one in queues.first(Phase.SENDING) if self._is_slow(one, now))

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
