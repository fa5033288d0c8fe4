"""What a connection does, and how long it may: the names of its states, and their limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Phase(Enum):
    """What a connection does, from its first byte to its last.

    It opens until its first request is whole, TLS handshake included; is idle until the next request begins, and reads
    until that is whole. A request is worked on, also for a client that has closed its side: it may still read. The
    response is sent, and the connection closes.
    """

    OPENING = "opening"
    IDLE = "idle"
    READING = "reading"
    WORKING = "working"
    HALF_CLOSED = "half_closed"
    SENDING = "sending"
    CLOSING = "closing"


NOTHING_IN_PROGRESS = (Phase.OPENING, Phase.IDLE, Phase.READING, Phase.CLOSING)
"""The phases in which no response is lost with the connection."""

SECONDS: Mapping[Phase, float] = MappingProxyType(
    {
        Phase.OPENING: 5.0,
        Phase.IDLE: 75.0,
        Phase.READING: 5.0,
        Phase.HALF_CLOSED: 1.0,
        Phase.SENDING: 30.0,
        Phase.CLOSING: 1.0,
    }
)
"""How long each phase may take; a handler limits its own time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection: the seconds of its phases, and the bytes of a request's head.

    A connection is protected from eviction for the first `protected` seconds of sending.
    """

    seconds: Mapping[Phase, float] = field(default_factory=lambda: SECONDS)
    protected: float = 5.0
    head_bytes: int = 16 << 10
