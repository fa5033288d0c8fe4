"""A Prometheus beside the demo, where one is installed: it scrapes the exporter and evaluates the alerts.

It ends with the process that started it, whatever becomes of that one, and at once: the next demo takes its folder.
"""

import shutil
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from exporter.demo import DemoError
from exporter.demo.commands import start

_PORT = 9090
_PATIENCE = 20.0
# Quicker than a cluster's, so that there is something to see; the alerts' own times stay what they are. The alerts
# take the exporter by its job and tell nodes by this label, as with the chart.
_CONFIG = """\
global: {{scrape_interval: 5s, evaluation_interval: 5s}}
rule_files: ["{rules}/*.yaml"]
scrape_configs:
  - job_name: calico-bpf-exporter
    static_configs:
      - targets: ["{target}"]
        labels: {{node: demo}}
"""


def is_installed() -> bool:
    """Whether there is a Prometheus to start."""
    return shutil.which("prometheus") is not None


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one, and where it answers."""

    address: str
    process: "Popen[bytes]"

    def end(self) -> None:
        """Ends it at once; its data is of no further use."""
        self.process.kill()
        self.process.wait()


def start_prometheus(folder: Path, target: str, rules: Path) -> Prometheus:
    """Starts one that keeps its data in `folder` and scrapes `target` (HOST:PORT), and waits until it answers.

    Raises `DemoError` when it does not come up, or there are no rules in the folder `rules`.
    """
    if not any(rules.glob("*.yaml")):
        raise DemoError(f"there are no rules (*.yaml) in {rules}")
    shutil.rmtree(folder, ignore_errors=True)  # of a demo that was killed
    folder.mkdir()
    config, log, port = folder / "prometheus.yml", folder / "log", _free_port()
    config.write_text(_CONFIG.format(rules=rules.resolve(), target=target), encoding="utf-8")
    address = f"127.0.0.1:{port}"
    where = (f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}")
    one = Prometheus(f"http://{address}", start("setpriv", "--pdeathsig", "KILL", "prometheus", *where, log=log))
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and one.process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=1):
            return one
        time.sleep(0.1)
    one.end()
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise DemoError(f"Prometheus did not come up: {said[-1] if said else 'it said nothing'}")


def _free_port() -> int:
    """Prometheus' own port, or another where that is taken."""
    for port in (_PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as trying:
            return int(trying.getsockname()[1])
    raise DemoError("there is no free port for Prometheus on 127.0.0.1")
