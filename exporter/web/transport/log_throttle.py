"""Allows one log line in some seconds, for what clients can cause as often as they want."""

import time

LOG_INTERVAL = 10.0


class LogThrottle:
    """Allows one log line per `LOG_INTERVAL` seconds."""

    def __init__(self) -> None:
        self._until = 0.0

    def may_log(self) -> bool:
        """Whether a line may be logged now, which the caller then does."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + LOG_INTERVAL
        return True
