"""A real Prometheus scrapes servers behind every kind of access control, with right credentials and with wrong ones."""

import re

import bcrypt
import pytest
import yaml

from tests.web.authority import Authority
from tests.web.fake_api_server import FakeApiServer
from tests.web.prometheus import PROMETHEUS, prometheus

PASSWORD = "correct horse: battery é"  # with what a careless parser would cut at
REQUIRED = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "authority.pem"}
SANS = {**REQUIRED, "client_allowed_sans": ["prometheus.monitoring.svc"]}

pytestmark = pytest.mark.skipif(
    not PROMETHEUS.exists(), reason="Prometheus is not here: `make setup` as root brings it"
)


def configs():
    """The web configurations by name, as the file says them."""
    pair = {"cert_file": "server.pem", "key_file": "server.key"}
    users = {"bob": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}
    return {
        "open": {},
        "password": {"basic_auth_users": users},
        "tls": {"tls_server_config": pair},
        "tls13": {"tls_server_config": {**pair, "min_version": "TLS13"}},
        "client": {"tls_server_config": {**pair, **REQUIRED}},
        "all": {
            "tls_server_config": {**pair, **SANS},
            "basic_auth_users": users,
            "http_server_config": {"headers": {"Strict-Transport-Security": "max-age=60"}},
            "rate_limit": {"interval": "100ms", "burst": 5},
        },
        "rare": {"rate_limit": {"interval": "1h", "burst": 1}},
        "token": {"tls_server_config": pair},
    }


def jobs(pki):
    """Scrape configurations by name: the server's configuration, Prometheus's, and the expected result.

    In TLS 1.3 a client has sent its request before it hears that its certificate was refused: a reset may overtake it.
    """
    reset = "connection reset by peer"
    trust = {"ca_file": f"{pki}/authority.pem"}
    prometheus = {**trust, "cert_file": f"{pki}/prometheus.pem", "key_file": f"{pki}/prometheus.key"}
    other = {**trust, "cert_file": f"{pki}/other.pem", "key_file": f"{pki}/other.key"}
    right = {"basic_auth": {"username": "bob", "password": PASSWORD}}
    wrong = {"basic_auth": {"username": "bob", "password": "wrong"}}
    return {
        "open": ("open", {}, ""),
        "password": ("password", right, ""),
        "password missing": ("password", {}, "401 Unauthorized"),
        "password wrong": ("password", wrong, "401 Unauthorized"),
        "password for nobody": ("password", {"basic_auth": {**right["basic_auth"], "username": "eve"}}, "401 "),
        "tls": ("tls", {"tls_config": trust}, ""),
        "tls unknown authority": ("tls", {"tls_config": {}}, "unknown authority"),
        "tls in the clear": ("tls", {}, "400 Bad Request"),
        "tls 1.3": ("tls13", {"tls_config": {**trust, "min_version": "TLS13"}}, ""),
        "tls too old": ("tls13", {"tls_config": {**trust, "max_version": "TLS12"}}, "protocol version"),
        "client": ("client", {"tls_config": prometheus}, ""),
        "client without certificate": ("client", {"tls_config": trust}, f"certificate required|{reset}"),
        "all": ("all", {"tls_config": prometheus, **right}, ""),
        "all but the name": ("all", {"tls_config": other, **right}, f"EOF|{reset}"),
        "all but the password": ("all", {"tls_config": prometheus, **wrong}, "401 "),
        "too often": ("rare", {}, "429 Too Many Requests"),
        "token": ("token", {"tls_config": trust, "authorization": {"credentials": "good"}}, ""),
        "token of an unknown user": ("token", {"tls_config": trust, "authorization": {"credentials": "none"}}, "401 "),
        "token without a right": ("token", {"tls_config": trust, "authorization": {"credentials": "idle"}}, "403 "),
        "token missing": ("token", {"tls_config": trust}, "401 Unauthorized"),
    }


@pytest.fixture(scope="module")
def errors(tmp_path_factory, shared_server, until):
    """What Prometheus says of each job after some scrapes: its last error, empty when the last scrape went well."""
    pki = tmp_path_factory.mktemp("configs")
    authority = Authority(pki)
    authority.issue("server", "IP:127.0.0.1")
    authority.issue("prometheus", "DNS:prometheus.monitoring.svc")
    authority.issue("other", "DNS:other.monitoring.svc")
    cluster = FakeApiServer(authority)
    cluster.users = {"good": {"username": "prometheus"}, "idle": {"username": "somebody"}}
    cluster.rights = {("prometheus", "/metrics")}
    ports = {}
    for name, config in configs().items():
        file = pki / f"{name}.yml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        more = {"kubeconfig": str(cluster.kubeconfig(pki / "kubeconfig"))} if name == "token" else {}
        ports[name] = shared_server(web_config=str(file), **more).ports[0]
    scrapes = [scrape(name, ports[config_name], how) for name, (config_name, how, _) in jobs(pki).items()]
    with prometheus(pki, scrapes) as ask:
        assert until(lambda: all(times >= 3 for times in scraped(ask, scrapes)), 90)
        active = until(lambda: answered_in_time(ask("targets")["activeTargets"]))
    cluster.stop()
    assert [] == cluster.faults
    return {one["labels"]["job"]: one["lastError"] for one in active if one["health"] != "unknown"}


def scrape(name, port, how):
    return {
        "job_name": name,
        "scheme": "https" if "tls_config" in how else "http",
        "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
        **how,
    }


def answered_in_time(active):
    """The targets; none while the last scrape of one took longer than a second, as it can on a busy machine."""
    return [] if any("deadline exceeded" in one["lastError"] for one in active) else active


def scraped(ask, scrapes):
    """How often each job was scraped, well or not."""
    answer = ask("query?query=count_over_time(up[10m])") or {"result": []}
    counts = {one["metric"]["job"]: int(one["value"][1]) for one in answer["result"]}
    return [counts.get(one["job_name"], 0) for one in scrapes]


@pytest.mark.parametrize("job", jobs("."))
def test_prometheus_gets_what_its_credentials_are_worth(errors, job):
    _, _, error = jobs(".")[job]
    assert re.search(error, errors[job])
    assert bool(error) == bool(errors[job])
