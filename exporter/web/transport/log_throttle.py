"""Allows one log line in some seconds, for what clients can cause as often as they want."""

import time

LOG_INTERVAL = 10.0


class LogThrottle:
    """Allows one log line per `LOG_INTERVAL` seconds."""

    def __init__(self) -> None:
        self._next_line = time.monotonic()

    def may_log(self) -> bool:
        """Whether a line may be logged now, which the caller then does."""
        now = time.monotonic()
        if now < self._next_line:
            return False
        self._next_line = now + LOG_INTERVAL
        return True
