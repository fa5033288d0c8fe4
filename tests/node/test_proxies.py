"""The proxy of the environment: which one, for which server, and what goes through it."""

import socket
import ssl
import threading
from contextlib import suppress

import pytest

from exporter.node.api_server import ApiServer, ApiServerError
from exporter.node.proxies import proxy_for
from tests.web.authority import Authority
from tests.web.duplex import Duplex
from tests.web.fake_api_server import LOCAL, TOKEN_REVIEWS, FakeApiServer

REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "scraper-token"}}


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ({"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}, "http://a"),
        ({"ALL_PROXY": "http://a"}, "http://a"),
        ({"ALL_PROXY": "http://a", "HTTPS_PROXY": "http://b"}, "http://b"),
        ({"HTTP_PROXY": "http://a"}, None),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
def test_the_variables_name_the_proxy(environment, proxy):
    assert proxy == proxy_for("https", "api.example.org", 6443, environment)


@pytest.mark.parametrize(
    ("exception", "host", "covered"),
    [
        ("*", "api.example.org", True),
        ("example.org", "example.org", True),
        ("example.org", "api.example.org", True),
        ("example.org", "badexample.org", False),
        (".example.org", "api.example.org", True),
        ("*.example.org", "api.example.org", True),
        (".example.org", "example.org", False),
        ("Example.ORG", "API.example.org", True),
        ("a, example.org ,b", "example.org", True),
        ("example.org:6443", "example.org", True),
        ("example.org:443", "example.org", False),
        ("10.96.0.0/12", "10.96.0.1", True),
        ("10.96.0.0/12", "10.112.0.1", False),
        ("10.96.0.1", "10.96.0.1", True),
        ("10.96.0.1:6443", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.10", False),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
        ("localhost", "localhost", True),
        ("", "localhost", False),
        ("/,::,1.2.3.4/99", "localhost", False),
    ],
)
def test_exceptions_go_without_it(exception, host, covered):
    environment = {"HTTPS_PROXY": "http://p:1", "no_proxy": exception}
    assert (None if covered else "http://p:1") == proxy_for("https", host, 6443, environment)


class Proxy:
    """A proxy that opens tunnels, over TLS with a certificate; `asked` are the heads of its requests."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\n\r\n", pair=None):
        self.asked, self._answer = [], answer
        self._sockets, self._threads = [], []
        self._tls = None
        if pair:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*pair)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._run)

    def _start(self, target, *arguments):
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _run(self):
        with suppress(OSError):
            client, _ = self._listener.accept()
            self._serve(self._tls.wrap_socket(client, server_side=True) if self._tls else client)

    def _serve(self, client):
        self._sockets.append(client)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.asked.append(head.decode())
        client.sendall(self._answer)
        if b" 200 " not in self._answer:
            client.close()
            return
        near = Duplex(client) if self._tls else client
        host, _, port = head.split()[1].decode().rpartition(":")
        server = socket.create_connection((host, int(port)))
        self._sockets.append(server)
        for source, target in ((near, server), (server, near)):
            self._start(copied, source, target)

    def close(self):
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # and not TLS's own, in use by another thread
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()


def copied(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def fake(authority, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeApiServer(authority)
    fake.users["scraper-token"] = {"username": "prometheus"}
    yield fake
    fake.stop()


def asked_through(fake, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    api = ApiServer(fake.kubeconfig(tmp_path / "config"))
    try:
        return api.create(TOKEN_REVIEWS, REVIEW)["status"]["user"]["username"]
    finally:
        api.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_requests_go_through_a_tunnel_of_the_proxy(fake, authority, tmp_path, monkeypatch, scheme):
    proxy = Proxy(pair=authority.issue("proxy", *LOCAL) if scheme == "https" else None)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    said = asked_through(fake, tmp_path, monkeypatch, f"{scheme}://me:p%40ss@127.0.0.1:{proxy.port}")
    assert "prometheus" == said
    (head,) = proxy.asked
    assert head.startswith(f"CONNECT 127.0.0.1:{fake.port} HTTP/1.1\r\n")
    assert "Basic bWU6cEBzcw==" in head
    assert "own-token" not in head
    proxy.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "answered 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502"),
        (b"SSH-2.0\r\n\r\n", "did not answer"),
        (b"", "did not answer"),
    ],
)
def test_a_proxy_that_refuses_is_a_sentence_without_its_password(fake, tmp_path, monkeypatch, answer, said):
    proxy = Proxy(answer)
    with pytest.raises(ApiServerError) as caught:
        asked_through(fake, tmp_path, monkeypatch, f"http://me:secret@127.0.0.1:{proxy.port}")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert [] == fake.seen
    proxy.close()


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://", "ftp://me:secret@host"])
def test_a_proxy_of_another_kind_is_a_sentence(fake, tmp_path, monkeypatch, proxy):
    with pytest.raises(ApiServerError, match="its proxy") as caught:
        asked_through(fake, tmp_path, monkeypatch, proxy)
    assert "secret" not in str(caught.value)
    assert [] == fake.seen
