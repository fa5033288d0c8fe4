"""One client's connection: requests in, responses out, and time-outs for slow clients.

HTTP/1.1 itself is h11's, which refuses what is malformed or ambiguous; this file gives it a stream and clocks. Knows
nothing of what is served.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from exporter.web.stream import Stream

_PIECE_IN = 4 << 10
_SMALL = 64 << 10
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """Clocks, in seconds, and sizes, in bytes, for one connection.

    `head` bounds the opening of the stream, and the wait for a whole request from then or from its first byte, `idle`
    the wait for the next one, `write` the sending of a whole response. For `protected` a response being sent is not
    evicted while other connections can be. A client that has hung up is worked for `gone` longer: it may only
    have closed its own side.
    """

    head: float = 5.0
    idle: float = 75.0
    write: float = 30.0
    protected: float = 5.0
    gone: float = 1.0
    head_bytes: int = 16 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the routes see it: header names are lower case; `query` is what follows the question mark.

    The values of a header that is there twice are one, with a comma between. `client` is the address it came from.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    client: str = ""


Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; lengths and connection headers are added when it is sent."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Headers = ()


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True, eq=False)
class Connection:
    """A client. Until `protected_until` it is protected from eviction, as long as others can be evicted.
    `since` is when its last request was there, or the client itself. Both are on the event loop's clock.

    A further request that comes when `welcome` says no is not answered: whoever asks will come again on a new
    connection, as with one that was idle for too long. `sending` is entered with each body for as long as it is sent.
    """

    stream: Stream
    limits: Limits
    client: str = ""
    since: float = 0.0
    welcome: Callable[[], bool] = lambda: True
    sending: Callable[["Connection", bytes], AbstractContextManager[None]] = lambda *_: nullcontext()
    protected_until: float = 0.0
    answered: bool = False
    http: h11.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def serve(self, handler: Handler) -> None:
        """Answers requests until the client or a limit ends it. Never raises for what a client did.

        The stream is left open: whoever made it closes it.
        """
        try:
            patience = self.limits.head
            while await self._serve_one(handler, patience):
                self.http.start_next_cycle()
                self.answered = True
                patience = self.limits.idle
            await self.stream.end(still_talking=self.http.their_state in (h11.ERROR, h11.SEND_BODY))
        except (TimeoutError, OSError, h11.LocalProtocolError):
            pass  # it was too slow, went away, or left a response half read: nothing more to say to it

    async def _serve_one(self, handler: Handler, patience: float) -> bool:
        try:
            request = await self._request(patience)
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))
            return False
        except ValueError:  # a target that no URL parser takes
            await self._refuse(HTTPStatus.BAD_REQUEST)
            return False
        if request is None or (self.answered and not self.welcome()):
            return False
        self.since, self.protected_until = asyncio.get_running_loop().time(), FOREVER
        try:
            response = await self._handled(handler, request)
            if response is None:
                return False
            self.protected_until = asyncio.get_running_loop().time() + self.limits.protected
            with self.sending(self, response.body):
                async with asyncio.timeout(self.limits.write):
                    await self._send(response, with_body=request.method != "HEAD")
        finally:
            self.protected_until = 0.0
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def _request(self, patience: float) -> Request | None:
        head: h11.Request | None = None
        async with asyncio.timeout(patience) as clock:
            while True:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    self.http.receive_data(await self.stream.read(_PIECE_IN))
                    # An idle connection may wait long for its first byte, not for the rest of what it began.
                    clock.reschedule(min(clock.when() or 0, asyncio.get_running_loop().time() + self.limits.head))
                elif isinstance(event, h11.Request):
                    head = event
                    if self._announces_body(head):
                        return _request(head, self.client)  # nobody here reads bodies: answered, then closed
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    return _request(head, self.client)
                else:
                    return None

    def _announces_body(self, head: h11.Request) -> bool:
        names = dict(head.headers)
        return names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names

    async def _handled(self, handler: Handler, request: Request) -> Response | None:
        """The handler's response, or None when the client hung up before it was there."""
        work = asyncio.ensure_future(handler(request))
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})  # only one may read at a time, and a cancelled one still does

    async def _gone(self) -> None:
        """Returns some time after the client has hung up. What it sends meanwhile is kept, up to a limit."""
        space = self.limits.head_bytes - len(self.http.trailing_data[0])
        while space > 0:
            data = await self.stream.read(_PIECE_IN)
            if not data:
                await asyncio.sleep(self.limits.gone)
                return
            self.http.receive_data(data)
            space -= len(data)
        await asyncio.Event().wait()

    async def _refuse(self, status: HTTPStatus) -> None:
        if self.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            async with asyncio.timeout(self.limits.head):
                await self._send(Response(status, f"{status.phrase}\n".encode()), with_body=True)

    async def _send(self, response: Response, *, with_body: bool) -> None:
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        headers += response.headers
        if all(name.lower() != "x-content-type-options" for name, _ in headers):
            headers.append(("X-Content-Type-Options", "nosniff"))
        if self.http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase)
        chunks = [self.http.send(head) or b""]
        if with_body:
            # Its length is known, so h11 counts the body and changes nothing in it: it goes out uncopied, whole.
            chunks += self.http.send_with_data_passthrough(h11.Data(data=response.body)) or ()
        chunks += self.http.send_with_data_passthrough(h11.EndOfMessage()) or ()
        if len(response.body) <= _SMALL:
            chunks = [b"".join(chunks)]  # one packet where one is enough
        for chunk in chunks:
            await self.stream.write(chunk)


def _request(head: h11.Request, client: str) -> Request:
    # A proxy's absolute form (GET http://node/metrics) names the same resource.
    target = urlsplit(head.target.decode("ascii"))
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("ascii"), target.path, target.query, headers, client)
