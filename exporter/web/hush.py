"""When a log line may be written that strangers can cause: once in a while, or the log would grow as they like."""

import time

SECONDS = 10.0


class Hush:
    """Answers whether to speak; after a yes it is no for `SECONDS`."""

    def __init__(self) -> None:
        self._until = 0.0

    def may_speak(self) -> bool:
        """Whether the last line is long enough ago; the caller then writes one."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + SECONDS
        return True
