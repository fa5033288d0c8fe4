"""Whether `serve` keeps its memory over many scrapes while counters move, printed as a Markdown table: `make bench`.

250 pods with the API server asked. Before each scrape some counters grow, and from time to time a slot of an interface
counts for the first time, which makes other lines; scrapes ask for text, OpenMetrics and gzip in turn. Needs root.
"""

import http.client
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from api_server import api_server
from network import private_network
from scrape import SLOTS, address_of, made_node, name_of, pod_of, resident, update

PODS = 250
SCRAPES = 1500
SHOWN = (50, 250, 500, 1000, 1500)
PORT = 10946
# Rows that grow before each scrape, and of the first interfaces how often one has a new slot, which is a series more
# and so 250 bytes.
MOVING, OFTEN_NEW, FIRST_TIMES = 20, 22, 0.1
# What Prometheus asks for, and what others do.
ASKED = (
    {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"},
    {"Accept-Encoding": "identity"},
    {"Accept-Encoding": "gzip"},
)


def main() -> None:
    """Prints the table."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    pods = [pod_of(index) for index in range(PODS)]
    with (
        made_node(PODS) as (bpf_fs, run_dir),
        private_network({name_of(index): address_of(index) for index in range(PODS)}),
        tempfile.TemporaryDirectory() as folder,
        api_server(pods, address_of, Path(folder)) as kubeconfig,
    ):
        time.sleep(2)  # files newer than that are read again at every scrape
        where = [f"--bpf.fs={bpf_fs}", f"--calico.run-dir={run_dir}", "--log.level=error"]
        where += ["--kubernetes.node=node", f"--kubernetes.kubeconfig={kubeconfig}"]
        words = [sys.executable, "-m", "exporter", "serve", *where, f"--web.listen-address=127.0.0.1:{PORT}"]
        with subprocess.Popen(words) as server:
            try:
                scrape_and_count(server.pid, Counters(bpf_fs / "tc/globals/cali_counters6", Path(folder) / "batch"))
            finally:
                server.terminate()


class Counters:
    """The counter map, whose values this program moves; `batch` is a file for bpftool's commands."""

    def __init__(self, pin: Path, batch: Path) -> None:
        self._pin, self._batch = pin, batch
        self._random = random.Random(1)  # noqa: S311  the same counters in each run
        self._values = {
            (index + 2, hook): [10**6 + index, 0, 10**4 + index, *[0] * (SLOTS - 3)]
            for index in range(PODS)
            for hook in (0, 1)
        }

    def move(self) -> None:
        """Some rows grow, and now and then one in a slot that was zero."""
        lines = []
        for key in self._random.sample(sorted(self._values), MOVING):
            row = self._values[key]
            row[0] += self._random.randrange(1, 10**6)
            row[2] += 1
            if key[0] < OFTEN_NEW and self._random.random() < FIRST_TIMES:
                row[self._random.randrange(SLOTS)] += 1
            lines.append(update(self._pin, struct.pack("<2I", *key), struct.pack(f"<{SLOTS}Q", *row)))
        self._batch.write_text("\n".join(lines), encoding="ascii")
        subprocess.run(["bpftool", "batch", "file", self._batch], check=True, stdout=subprocess.DEVNULL)


def scrape_and_count(process: int, counters: Counters) -> None:
    """Scrapes, and prints the resident memory of the process on the way."""
    print("| scrapes | MiB resident |\n| --- | --- |")
    for number in range(1, SCRAPES + 1):
        counters.move()
        scrape(ASKED[number % len(ASKED)])
        if number in SHOWN:
            print(f"| {number} | {resident(process):.1f} |", flush=True)


def scrape(headers: dict[str, str]) -> None:
    """One scrape; waits until the server listens."""
    until = time.monotonic() + 60
    while True:
        client = http.client.HTTPConnection("127.0.0.1", PORT)
        try:
            client.request("GET", "/metrics", headers=headers)
            answer = client.getresponse()
            if answer.read() and answer.status == http.client.OK:
                return
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            client.close()
        if time.monotonic() > until:
            sys.exit("the exporter did not answer")


if __name__ == "__main__":
    main()
