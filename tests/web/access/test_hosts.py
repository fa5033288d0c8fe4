"""DNS rebinding: a foreign page that points its own name at a node can make a browser ask, and gets no page."""

import pytest

from exporter.web.access.hosts import Hosts

OWN = Hosts.of({"Node-1"}, ())


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost:8080", "localhost.", "node-1", "node-1:10042", "NODE-1"),
        *("127.0.0.1", "10.0.0.2:10042", "[::1]", "[fd00::5]:10042", "fd00::5", "[fe80::1%eth0]:80", ""),
    ],
)
def test_addresses_and_the_servers_own_names_are_allowed(host):
    assert OWN.allow(host)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:10042",
            "localhost.evil.example",
            "node-1.evil.example",
            "127.0.0.1.evil.example",
        ),
        *("evil.example:80:80", "[evil.example]", "10.0.0.2@evil.example", "evil.example, localhost", "0x7f.1", "10.1"),
        *("localhost:evil", "localhost evil.example", ":", "[::1].evil.example"),
    ],
)
def test_every_other_name_is_refused(host):
    assert not OWN.allow(host)


@pytest.fixture(scope="module")
def plain(shared_server):
    return shared_server(allowed_hosts=[])


def asked(server, path, host):
    """The status of a request whose Host is this."""
    raw = server.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return int(raw.split(b" ")[1])


def test_a_foreign_name_gets_no_page_and_everything_else(plain):
    assert [421, 200] == [asked(plain, "/", host) for host in ("evil.example", "node-1")]
    for path in ("/metrics", "/healthz", "/readyz"):
        assert 200 == asked(plain, path, "evil.example")
    assert 1 == plain.ask().value('calico_bpf_exporter_scrapes_rejected_total{reason="host"}')
    assert "the server is not called 'evil.example'" in plain.log()


def test_allowed_names_are_required_everywhere(shared_server):
    running = shared_server(allowed_hosts=["exporter.example.org"])
    for path in ("/", "/metrics", "/healthz", "/readyz"):
        hosts = ("evil.example", "exporter.example.org", "Exporter.Example.org.:443", "10.0.0.2")
        assert [421, 200, 200, 200] == [asked(running, path, host) for host in hosts]
