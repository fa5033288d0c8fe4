"""The stopwatch by which tests say that something happens in time."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from tests.stopwatch import Stopwatch, wait_for_end

WORK = "import time\nwhile time.process_time() < 0.3: pass"


def test_what_others_take_of_the_cpu_is_not_counted_and_waiting_is():
    cpus = os.sched_getaffinity(0)
    with ExitStack() as cleanup:
        cleanup.callback(os.sched_setaffinity, 0, cpus)
        os.sched_setaffinity(0, {min(cpus)})  # for the children too: all are on one CPU
        for _ in range(3):
            cleanup.callback(cleanup.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])).kill)
        start, watch = time.monotonic(), Stopwatch()
        with subprocess.Popen([sys.executable, "-c", WORK]) as child:
            theirs = Stopwatch(child.pid)
            wait_for_end(child.pid)
            seconds = theirs.seconds()
        wall = time.monotonic() - start
        assert 0.2 < seconds < wall / 2
        assert watch.seconds() > wall / 2  # this thread slept
