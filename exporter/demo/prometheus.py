"""A Prometheus next to the demo, if one is installed: it scrapes the exporter and evaluates the alerts.

The kernel kills it when its parent process ends: the next demo uses the same folder.
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
_MAX_WAIT = 20.0
# Shorter intervals than a cluster's, to show results soon; the alerts' `for` is unchanged. The alerts select the
# exporter by its job and nodes by this label, as with the chart.
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
    """A running Prometheus and its address."""

    address: str
    process: "Popen[bytes]"

    def end(self) -> None:
        """Kills it; its data is not needed any more."""
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
    until = time.monotonic() + _MAX_WAIT
    while time.monotonic() < until and one.process.poll() is None:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=1):
            return one
        time.sleep(0.1)
    one.end()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise DemoError(f"Prometheus did not come up: {lines[-1] if lines else 'it logged nothing'}")


def _free_port() -> int:
    """Prometheus' default port, or a free one if that is taken."""
    for port in (_PORT, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as trying:
            return int(trying.getsockname()[1])
    raise DemoError("there is no free port for Prometheus on 127.0.0.1")
