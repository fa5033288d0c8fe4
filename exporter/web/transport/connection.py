"""One HTTP connection: reads requests, writes responses, and times out slow clients.

h11 implements HTTP/1.1 and rejects malformed or ambiguous requests. Knows nothing of the served content.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from exporter.web.transport.eviction import State
from exporter.web.transport.log_throttle import LogThrottle
from exporter.web.transport.messages import Handler, Request, Response
from exporter.web.transport.stream import Stream

log = logging.getLogger("exporter.web")

_PIECE_IN = 4 << 10
_SMALL = 64 << 10
_BARE_LINE_END = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts, in seconds, and a size, in bytes, of one connection.

    `head` is for opening the stream and for a whole request head, `idle` between requests, `write` for sending a
    response. A connection is protected from eviction for the first `protected` seconds of sending. After the client
    has closed its side, its request continues for `half_closed`: it may still read.
    """

    head: float = 5.0
    idle: float = 75.0
    write: float = 30.0
    protected: float = 5.0
    half_closed: float = 1.0
    head_bytes: int = 16 << 10


@dataclass(slots=True, eq=False)
class Connection:
    """A connection, in `state` since that time on the event loop's clock; `entering` is called before it changes.

    If `reusable` returns False, the next request closes the connection, and the client reconnects. `sending` is entered
    with each body while it is sent.
    """

    stream: Stream
    limits: Limits
    client: str = ""
    since: float = 0.0
    reusable: Callable[[], bool] = lambda: True
    sending: Callable[["Connection", bytes], AbstractContextManager[None]] = lambda *_: nullcontext()
    entering: Callable[["Connection", State], None] = lambda *_: None
    state: State = State.IDLE
    answered: bool = False
    http: h11.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def serve(self, handler: Handler) -> None:
        """Answers requests until the client or a limit ends the connection. Never raises because of a client.

        The caller closes the stream.
        """
        try:
            seconds = self.limits.head
            while await self._serve_one(handler, seconds):
                self.http.start_next_cycle()
                self.answered = True
                seconds = self.limits.idle
            await self.stream.end(still_sending=self.http.their_state in (h11.ERROR, h11.SEND_BODY))
        except (TimeoutError, OSError, h11.LocalProtocolError):
            pass  # too slow, disconnected, or stopped reading a response

    async def _serve_one(self, handler: Handler, seconds: float) -> bool:
        try:
            request = await self._request(seconds)
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))
            return False
        except ValueError:  # an invalid target
            await self._refuse(HTTPStatus.BAD_REQUEST)
            return False
        if request is None or (self.answered and not self.reusable()):
            return False
        self._enter(State.WORKING)
        try:
            response = await self._handled(handler, request)
            if response is None:
                return False
            self._enter(State.SENDING)
            with self.sending(self, response.body):
                async with asyncio.timeout(self.limits.write):
                    await self._send(response, with_body=request.method != "HEAD")
        finally:
            self._enter(State.IDLE)
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    def _enter(self, state: State) -> None:
        self.entering(self, state)
        self.state, self.since = state, asyncio.get_running_loop().time()

    async def _request(self, seconds: float) -> Request | None:
        head: h11.Request | None = None
        async with asyncio.timeout(seconds) as clock:
            while True:
                before = self.http.trailing_data[0]
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    self.http.receive_data(await self.stream.read(_PIECE_IN))
                    # `idle` is only for the first byte of a request.
                    clock.reschedule(min(clock.when() or 0, asyncio.get_running_loop().time() + self.limits.head))
                elif isinstance(event, h11.Request):
                    head = event
                    _refuse_ambiguous(head, before[: len(before) - len(self.http.trailing_data[0])])
                    if self._has_body(head):
                        return _request(head, self.client)  # bodies are not read: respond, then close
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    return _request(head, self.client)
                else:
                    return None

    def _has_body(self, head: h11.Request) -> bool:
        names = dict(head.headers)
        return names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names

    async def _handled(self, handler: Handler, request: Request) -> Response | None:
        """The handler's response, or None if the client disconnects first."""
        work = asyncio.ensure_future(_answered(handler, request))
        hangup = asyncio.ensure_future(self._hung_up())
        try:
            await asyncio.wait({work, hangup}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            work.cancel()
            hangup.cancel()
            await asyncio.wait({work, hangup})  # a cancelled task still reads, and only one may

    async def _hung_up(self) -> None:
        """Returns some time after the client has disconnected. Buffers what it sends until then, up to a limit."""
        space = self.limits.head_bytes - len(self.http.trailing_data[0])
        while space > 0:
            data = await self.stream.read(_PIECE_IN)
            if not data:
                await asyncio.sleep(self.limits.half_closed)
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
            # The length is known, so h11 passes the body through without a copy.
            chunks += self.http.send_with_data_passthrough(h11.Data(data=response.body)) or ()
        chunks += self.http.send_with_data_passthrough(h11.EndOfMessage()) or ()
        if len(response.body) <= _SMALL:
            chunks = [b"".join(chunks)]  # in one packet if possible
        for chunk in chunks:
            await self.stream.write(chunk)


_throttle = LogThrottle()


async def _answered(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except Exception as error:  # the boundary: an OSError of the handler's must not pass for one of the client's
        if _throttle.may_log():
            log.exception("unexpected error in a request for %a", request.path)
        sentence = f"unexpected error ({type(error).__name__}), please report it with the log's traceback\n"
        return Response(HTTPStatus.INTERNAL_SERVER_ERROR, sentence.encode())


def _refuse_ambiguous(head: h11.Request, raw: bytes) -> None:
    """Raises `h11.RemoteProtocolError` for what h11 accepts and another server may read differently."""
    names = {name for name, _ in head.headers}
    if _BARE_LINE_END.search(raw) or {b"content-length", b"transfer-encoding"} <= names:
        raise h11.RemoteProtocolError("ambiguous line ends or lengths", error_status_hint=HTTPStatus.BAD_REQUEST)


def _request(head: h11.Request, client: str) -> Request:
    # Accepts the absolute form of proxies (GET http://node/metrics).
    target = urlsplit(head.target.decode("ascii"))
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("ascii"), target.path, target.query, headers, client)
