"""One HTTP connection: reads requests, writes responses, and ends with the time limit of its phase.

h11 implements HTTP/1.1 and rejects malformed or ambiguous requests. Knows nothing of the served content.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

from exporter.web.transport.log_throttle import LogThrottle
from exporter.web.transport.messages import Handler, Request, Response
from exporter.web.transport.phases import Limits, Phase
from exporter.web.transport.stream import HandshakeError, Stream

log = logging.getLogger("exporter.web")

_PIECE_IN = 4 << 10
_SMALL = 64 << 10
_BARE_LINE_END = re.compile(rb"(?<!\r)\n")


@dataclass(slots=True, eq=False)
class Connection:
    """A connection, in `phase` since that time of the monotonic clock, and the body that is being sent.

    If `reusable` returns False, the next request closes the connection, and the client reconnects. `entering` is called
    before the phase changes, `failed_handshake` with the client's address and the reason.
    """

    stream: Stream
    limits: Limits
    client: str = ""
    reusable: Callable[[], bool] = lambda: True
    entering: Callable[["Connection", Phase], None] = lambda *_: None
    failed_handshake: Callable[[str, str], None] = lambda *_: None
    phase: Phase = Phase.OPENING
    since: float = field(default_factory=time.monotonic)
    unsent: bytes = b""
    _deadline: asyncio.Timeout = field(init=False)
    _http: h11.Connection = field(init=False)

    def __post_init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.head_bytes)

    async def serve(self, handler: Handler) -> None:
        """Answers requests until the client or a limit ends the connection. Never raises because of a client.

        The caller closes the stream.
        """
        try:
            # Too slow, disconnected, or stopped reading a response.
            with suppress(TimeoutError, OSError, h11.LocalProtocolError):
                async with asyncio.timeout(None) as self._deadline:
                    self._enter(Phase.OPENING)
                    still_sending = await self._serve_all(handler)
                    self._enter(Phase.CLOSING)
                    await self.stream.end(still_sending=still_sending)
        finally:
            # It refers to the task, and the error of an evicted task to this: a cycle, which would keep the buffers.
            del self._deadline

    async def _serve_all(self, handler: Handler) -> bool:
        """Opens the stream and answers the requests; whether the client may still be sending."""
        try:
            await self.stream.open()
        except HandshakeError as error:
            self.failed_handshake(self.client, str(error))
            return True
        while await self._serve_one(handler):
            self._http.start_next_cycle()
            self._enter(Phase.READING if self._http.trailing_data[0] else Phase.IDLE)
        return self._http.their_state in (h11.ERROR, h11.SEND_BODY)

    async def _serve_one(self, handler: Handler) -> bool:
        """Answers the next request; whether the connection can have another one."""
        try:
            request = await self._request()
        except h11.RemoteProtocolError as error:
            await self._refuse(HTTPStatus(error.error_status_hint))
            return False
        except ValueError:  # an invalid target
            await self._refuse(HTTPStatus.BAD_REQUEST)
            return False
        if request is None or (self.phase is not Phase.OPENING and not self.reusable()):
            return False
        self._enter(Phase.WORKING)
        response = await self._handled(handler, request)
        await self._send(response, with_body=request.method != "HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _enter(self, phase: Phase) -> None:
        self.entering(self, phase)
        self.phase, self.since = phase, time.monotonic()
        seconds = self.limits.seconds.get(phase)
        self._deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def _request(self) -> Request | None:
        head: h11.Request | None = None
        while True:
            before = self._http.trailing_data[0]
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.read(_PIECE_IN))
                if self.phase is Phase.IDLE:
                    self._enter(Phase.READING)
            elif isinstance(event, h11.Request):
                head = event
                _refuse_ambiguous(head, before[: len(before) - len(self._http.trailing_data[0])])
                if _has_body(head):
                    return _request(head, self.client)  # bodies are not read: respond, then close
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, self.client)
            else:
                return None

    async def _handled(self, handler: Handler, request: Request) -> Response:
        """The handler's response; soon cancelled if the client disconnects first."""
        hangup = asyncio.ensure_future(self._watch())
        try:
            return await _answered(handler, request)
        finally:
            hangup.cancel()
            await asyncio.wait({hangup})  # a cancelled task still reads, and only one may

    async def _watch(self) -> None:
        """Notes that the client has closed its side. Buffers what it sends until then, up to a limit."""
        space = self.limits.head_bytes - len(self._http.trailing_data[0])
        while space > 0:
            data = b""
            with suppress(OSError):  # a reset is an end too
                data = await self.stream.read(_PIECE_IN)
            if not data:
                self._enter(Phase.HALF_CLOSED)
                return
            self._http.receive_data(data)
            space -= len(data)

    async def _refuse(self, status: HTTPStatus) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Response(status, f"{status.phrase}\n".encode()), with_body=True)

    async def _send(self, response: Response, *, with_body: bool) -> None:
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        headers += response.headers
        if all(name.lower() != "x-content-type-options" for name, _ in headers):
            headers.append(("X-Content-Type-Options", "nosniff"))
        if self._http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers, reason=response.status.phrase)
        chunks = [self._http.send(head) or b""]
        if with_body:
            # The length is known, so h11 passes the body through without a copy.
            chunks += self._http.send_with_data_passthrough(h11.Data(data=response.body)) or ()
        chunks += self._http.send_with_data_passthrough(h11.EndOfMessage()) or ()
        if len(response.body) <= _SMALL:
            chunks = [b"".join(chunks)]  # in one packet if possible
        self.unsent = response.body
        self._enter(Phase.SENDING)
        for chunk in chunks:
            await self.stream.write(chunk)
        self.unsent = b""


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


def _has_body(head: h11.Request) -> bool:
    names = dict(head.headers)
    return names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names


def _request(head: h11.Request, client: str) -> Request:
    # Accepts the absolute form of proxies (GET http://node/metrics).
    target = urlsplit(head.target.decode("ascii"))
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("ascii"), target.path, target.query, headers, client)
