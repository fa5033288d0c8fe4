"""One HTTP/1.1 connection to a server, directly or through a proxy; h11 parses what the server sends.

Knows HTTP, but not the API's paths, objects or credentials. Redirects are not followed, and nothing is decompressed: a
small response must not become a large one. Informational responses (1xx) are skipped.
"""

import base64
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import h11

from exporter.node.proxies import proxy_for
from exporter.node.transport import Limit, Stream, Tcp, Tls

_MAX_HEAD = 100 << 10
_PORTS = {"http": 80, "https": 443}
Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Server:
    """A server's address: `path` is in front of every path that is asked for, `tls` is None for plain HTTP."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: SplitResult, tls: ssl.SSLContext | None) -> "Server":
        """The server of a URL. Raises ValueError for one without a host or with a port that is none."""
        if not url.hostname:
            raise ValueError("it has no host")
        return cls(url.hostname, url.port or _PORTS[url.scheme], url.path.rstrip("/"), tls)

    @property
    def authority(self) -> str:
        """The host and the port as they are in a request."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection:
    """A connection to `server` that is used for one request after the other. Raises OSError and h11's errors."""

    def __init__(self, server: Server, limit: Limit) -> None:
        proxy = proxy_for("https" if server.tls else "http", server.host, server.port)
        hop = _proxy_server(proxy) if proxy else server
        self._server = server
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._tcp = Tcp(hop.host, hop.port, limit)
        try:
            self._stream: Stream = self._tcp
            if proxy and hop.tls:
                self._stream = Tls(self._stream, hop.tls, hop.host)
            if proxy:
                _open_tunnel(self._stream, server, proxy)
            if server.tls:
                self._stream = Tls(self._stream, server.tls, server.host)
        except BaseException:
            self._tcp.close()
            raise

    def request(self, method: str, target: str, headers: Headers, body: bytes, limit: Limit) -> h11.Response:
        """Sends a request and returns the head of the response; `limit` holds until another one is set."""
        self._tcp.limit = limit
        length = [("Content-Length", str(len(body)))] if body else []
        every = [("Host", self._server.authority), ("Accept-Encoding", "identity"), *length, *headers]
        return _exchange(self._http, self._stream, method, self._server.path + target, every, body)

    def body(self) -> Iterator[bytes]:
        """The pieces of the response's body as they arrive."""
        while isinstance(event := _next_event(self._http, self._stream), h11.Data):
            yield bytes(event.data)

    def stream_for_long(self, limit: Limit) -> None:
        """From here on, the response may take as long as `limit` says; the peer's death is detected meanwhile."""
        self._tcp.limit = limit
        self._tcp.keep_alive()

    def reusable(self) -> bool:
        """Whether the last response is whole and the connection still there; then another request may be sent."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return self._http.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE} and self._tcp.silent()

    def close(self) -> None:
        """Closes the connection."""
        self._tcp.close()


def _exchange(
    http: h11.Connection, stream: Stream, method: str, target: str, headers: Headers, body: bytes
) -> h11.Response:
    sent = http.send(h11.Request(method=method, target=target, headers=headers)) or b""
    if body:
        sent += http.send(h11.Data(data=body)) or b""
    stream.send(sent + (http.send(h11.EndOfMessage()) or b""))
    while isinstance(event := _next_event(http, stream), h11.InformationalResponse):
        pass
    if not isinstance(event, h11.Response):
        raise ConnectionError("it sent no response")
    return event


def _next_event(http: h11.Connection, stream: Stream) -> h11.Event:
    while True:
        event = http.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            raise ConnectionError("it sent more than a response")
        http.receive_data(stream.receive())


def _proxy_server(proxy: str) -> Server:
    url = urlsplit(proxy)
    if url.scheme not in _PORTS or not url.hostname:
        raise OSError("its proxy, as the environment names it, is no http:// or https:// address with a host")
    return Server.of(url, ssl.create_default_context() if url.scheme == "https" else None)


def _open_tunnel(stream: Stream, server: Server, proxy: str) -> None:
    url = urlsplit(proxy)
    headers = [("Host", server.authority)]
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers.append(("Proxy-Authorization", f"Basic {base64.b64encode(pair).decode()}"))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    answer = _exchange(http, stream, "CONNECT", server.authority, headers, b"")
    if not 200 <= answer.status_code < 300:
        raise OSError(f"its proxy {url.hostname} answered {answer.status_code}")
