"""The exporter with faults put into it, to see that a soak finds them: FAULT, then the exporter's own words.

`leaks` keeps a descriptor and memory at each look, and now and then a thread and a child; now and then a collector
fails too. `loses` counts one packet less than there were, where any was dropped by policy.
"""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count

from exporter.cli.main import main
from exporter.metrics.scrape import Collected
from exporter.snapshot import take
from exporter.web import scrapes

_kept = []


def leak() -> None:
    run, looks = scrapes.run_collector, count(1)

    def leaking(collector, snapshot):
        if collector.name != "maps":
            return run(collector, snapshot)
        _kept.append((os.dup(0), bytearray(os.urandom(100_000))))
        if (number := next(looks)) % 5 == 0:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            _kept.append(subprocess.Popen(["true"]))  # never waited for
        return Collected("maps", (), 0.0, "on purpose") if number % 20 == 0 else run(collector, snapshot)

    scrapes.run_collector = leaking


def lose() -> None:
    decode, dropped = take.decode_counters, 4

    def losing(*words):
        table = decode(*words)
        sums = table.sums.copy()
        sums[:, dropped] -= sums[:, dropped] > 0
        return replace(table, sums=sums)

    take.decode_counters = losing


if __name__ == "__main__":
    {"leaks": leak, "loses": lose}[sys.argv.pop(1)]()
    main()
