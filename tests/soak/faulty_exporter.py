"""The exporter with faults put into it, to see that a soak finds them: FAULT, then the exporter's own words.

`leaks` keeps a descriptor and memory at each scrape, and now and then a thread and a child; now and then a collector
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
from exporter.snapshot import reading
from exporter.web import scrapes

_kept = []


def leak() -> None:
    run, numbers = scrapes.run_collector, count(1)

    def leaking(collector, read):
        if collector.name != "maps":
            return run(collector, read)
        _kept.append((os.dup(0), bytearray(os.urandom(400_000))))
        if (number := next(numbers)) % 5 == 0:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            _kept.append(subprocess.Popen(["true"]))  # never waited for
        return Collected("maps", (), 0.0, "on purpose") if number % 20 == 0 else run(collector, read)

    scrapes.run_collector = leaking


def lose() -> None:
    decode, dropped = reading.decode_counters, 4

    def losing(*words):
        table = decode(*words)
        rows = {key: (*row[:dropped], max(row[dropped] - 1, 0), *row[dropped + 1 :]) for key, row in table.rows.items()}
        return replace(table, rows=rows)

    reading.decode_counters = losing


if __name__ == "__main__":
    {"leaks": leak, "loses": lose}[sys.argv.pop(1)]()
    main()
