"""What `serve` loads is what every node pays for, so what it must not load is written down here."""

import http.client
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests import installed
from tests.cli.test_serve import cluster, empty_node  # noqa: F401  the first is a fixture

# With what each costs, in MiB of its own where that is known.
NEVER = {
    "email": "2",
    "http.client": "0.8, h11 does this",
    "http.server": "1",
    "importlib.metadata": "1.5 with email",
    "urllib.request": "1.5",
    "wsgiref": "brings http.server",
    "encodings.idna": "1.2 with the tables of Unicode",
    "unicodedata": "1.1",
    "unittest": "1",
    "multiprocessing": "0.3, for pyroute2's configuration, which starts `uname`",
    "psutil": "0.9, only for --collector.nic",
    "prometheus_client.exposition": "3.5, with servers and clients of HTTP",
    "prometheus_client.openmetrics": "exposition is ours",
    "pyroute2.iproute": "8, with all of netlink",
    "pyroute2.netlink.rtnl.marshal": "2.7, with a dozen kinds of messages",
    "pyroute2.netlink.nlsocket": "2",
    "rich": "5.9, for terminals",
    "jinja2": "7.1, for the page when it is opened",
    "markupsafe": "comes with jinja2",
    "cachetools": "0.9, for authorization",
    "exporter.web.access.reviews": "for authorization",
    "bcrypt": "for passwords",
    "exporter.web.transport.tls": "for a web configuration",
    "exporter.web.access.live_config": "for a web configuration",
    "exporter.web.access.config_file": "for a web configuration",
    "exporter.snapshot.bundle": "for bundles",
    "exporter.node.packet_socket": "for `why --packets`: `serve` captures nothing",
    "exporter.demo": "for the demo",
    "exporter.kubectl": "for laptops",
    "tarfile": "for bundles",
    "lzma": "for bundles",
    "tempfile": "0.5",
    "numpy": "12",
    "lightkube": "the API server's client is ours",
    "httpx2": "the API server's client is ours",
    "msgspec": "the API server's client is ours",
}
WITHOUT_A_KUBECONFIG = {
    "yaml": "1.5, for files of YAML",
    "exporter.node.http_client": "for the API server",
    "exporter.node.kubeconfig": "for the API server",
    "_ssl": "3.7, with OpenSSL",
    "libcrypto": "2 to 4.5, with its first digest",
}


def loaded(flags):
    """The modules and the libraries that `serve` with these flags has loaded after some scrapes."""
    words = [installed.program(), "serve", "--web.listen-address", "127.0.0.1:0", *map(str, flags)]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        errors = []
        try:
            for line in process.stderr:
                errors.append(line)
                if found := re.search(r"listening on 127.0.0.1 port (\d+)", line):
                    scrape(int(found[1]))
                    mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").split()
                    break
        finally:
            process.send_signal(signal.SIGTERM)
        errors += process.stderr
    assert "Traceback" not in "".join(errors)
    libraries = {Path(one).name.partition(".")[0] for one in mapped if ".so" in one}
    return libraries | {line.rpartition("|")[2].strip() for line in errors if line.startswith("import time:")}


def scrape(port):
    for accept in ("", "application/openmetrics-text"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
        assert 200 == client.getresponse().status
        client.close()
        time.sleep(1.5)  # the second snapshot of its start, and the list of pods


def unwanted(found, names):
    return sorted(one for one in found if any(one == name or one.startswith(f"{name}.") for name in names))


def test_without_an_api_server_nothing_is_loaded_for_it(tmp_path):
    found = loaded([*empty_node(tmp_path), "--no-kubernetes"])
    assert {"exporter.web.transport.server", "h11", "prometheus_client.metrics"} <= found
    assert [] == unwanted(found, NEVER | WITHOUT_A_KUBECONFIG)


def test_with_one_a_kubeconfig_is_read_and_nothing_else_is_loaded(cluster, tmp_path):  # noqa: F811
    found = loaded([*empty_node(tmp_path), "--kubernetes.kubeconfig", cluster.config, "--kubernetes.node", "node-1"])
    assert cluster.seen
    assert {"exporter.node.http_client", "_ssl", "libcrypto", "yaml"} <= found
    assert [] == unwanted(found, NEVER)
