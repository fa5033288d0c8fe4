"""A real Prometheus, from the tools that `make setup` brings."""

import json
import socket
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

PROMETHEUS = Path(__file__).parents[2] / ".tools" / "bin" / "prometheus"


@contextmanager
def prometheus(folder, scrapes):
    """Runs Prometheus on these scrape configurations; asks its API."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "prometheus.yml"
    told = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scrapes}
    config.write_text(yaml.safe_dump(told), encoding="utf-8")
    command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]

    def ask(question):
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/{question}", timeout=5) as response:
                return json.load(response)["data"]
        except OSError:
            return None  # it is not up yet

    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield ask
    finally:
        process.kill()
        process.wait()
