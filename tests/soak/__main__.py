"""`make soak`: a soak of minutes or hours, and its tables."""

import argparse
import re
import signal
import sys

from tests.soak.soak import soak

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: say 90s, 10m or 8h")
    return float(match[1]) * _UNITS[match[2]]


def main() -> int:
    words = argparse.ArgumentParser(prog="make soak", description=__doc__)
    words.add_argument("duration", type=seconds, help="how long, after a minute of warming up: 90s, 10m, 8h")
    words.add_argument("--seed", type=int, default=1, help="another order of what is done")
    given = words.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the node is removed however it ends
    report = soak(given.duration, warm_up=60, seed=given.seed)
    sys.stdout.write("\n".join([*report.lines, "", *report.problems, ""]))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
