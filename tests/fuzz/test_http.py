"""Whatever bytes a client sends, in whatever pieces, it gets whole responses of HTTP or none, and no exception leaves
the connection; a request that is one arrives as it was sent.
"""

import asyncio
from http import HTTPStatus

import h11
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.access.passwords import parse_basic
from exporter.web.transport.connection import Connection
from exporter.web.transport.messages import Response
from exporter.web.transport.phases import Limits, Phase

LIMITS = Limits({Phase.HALF_CLOSED: 0.0}, head_bytes=512)
WORDS = [
    b"GET", b"HEAD", b"POST", b" ", b"/", b"/metrics", b"*", b"http://[", b"http://node/x", b"//", b"?", b"#", b"%00",
    b" HTTP/1.1", b" HTTP/1.0", b" HTTP/9.9", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"Host: node", b"Host:",
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 9999999999999999999999", b"Host: a\r\nHost: b",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Connection: close", b"Connection: keep-alive",
    b"Expect: 100-continue", b"Upgrade: h2c", b"Authorization: Basic ", b"5\r\nhello\r\n", b"0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01", b"\0", b"\xff", b"x" * 600,
]  # fmt: skip
ANY = st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=30)
# Nearly requests: what stands in each place of one is sometimes something else.
LINES = st.lists(st.sampled_from([word for word in WORDS if b":" in word]), max_size=3)
TARGETS = st.sampled_from(
    [b"/", b"/metrics?a", b"*", b"//", b"http://[", b"http://node/x", b"http://[v]/", b"/\xff", b""]
)
REQUESTS = st.builds(
    lambda method, target, version, lines: b"\r\n".join(
        [b" ".join([method, target, version]), b"Host: node", *lines, b"", b""]
    ),
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"G\0"]),
    TARGETS,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"]),
    LINES,
)
PIECES = st.lists(REQUESTS, max_size=3) | st.tuples(st.lists(REQUESTS, max_size=2), ANY).map(
    lambda two: two[0] + two[1]
)


class Pieces:
    """A client that sends these pieces and then closes its side; what it is told is kept."""

    def __init__(self, pieces):
        self.left = [one for one in pieces if one]
        self.heard = b""

    async def open(self):
        pass

    async def read(self, size):
        if not self.left:
            return b""
        piece, rest = self.left[0][:size], self.left[0][size:]
        self.left[:1] = [rest] if rest else []
        return piece

    async def write(self, data):
        self.heard += data

    async def end(self, *, still_sending):
        pass


def served(pieces):
    """The requests that arrived, and what the client was told."""
    requests = []

    async def handle(request):
        requests.append(request)
        return Response(HTTPStatus.OK, b"ok\n")

    stream = Pieces(pieces)
    asyncio.run(Connection(stream, LIMITS).serve(handle))
    return requests, stream.heard


def responses(heard, requests):
    """The status codes of whole responses, as another side of HTTP reads them: of nothing else is there a byte."""
    codes = []
    methods = [one.method for one in requests]
    while heard:
        head, blank, rest = heard.partition(b"\r\n\r\n")
        assert blank
        assert head.startswith(b"HTTP/1.1 ")
        codes.append(int(head[9:12]))
        method = methods[len(codes) - 1] if len(codes) <= len(methods) else "GET"
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        length = 0 if method == "HEAD" else length
        assert len(rest) >= length
        heard = rest[length:]
    return codes


@given(
    PIECES | st.tuples(PIECES, st.just([b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"])).map(lambda both: both[1] + both[0])
)
def test_any_bytes_get_whole_responses_and_raise_nothing(pieces):
    requests, heard = served(pieces)
    codes = responses(heard, requests)
    assert len(requests) <= len(codes) <= len(requests) + 1
    assert [200] * len(requests) == codes[: len(requests)]
    assert all(400 <= code < 600 for code in codes[len(requests) :])


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.!~", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@given(
    path=st.text("abcXYZ019/_.-~%", max_size=40),
    query=st.text("abc=&%+.[]", max_size=20),
    headers=st.dictionaries(TOKENS.map("x-{}".format), VALUES, max_size=5),
    cuts=st.lists(st.integers(1, 40), max_size=10),
)
def test_a_request_arrives_as_it_was_sent_however_it_is_cut(path, query, headers, cuts):
    client = h11.Connection(h11.CLIENT)
    target = f"/x{path}" + (f"?{query}" if query else "")
    sent = client.send(h11.Request(method="GET", target=target, headers=[("Host", "node"), *headers.items()]))
    sent += client.send(h11.EndOfMessage())
    pieces = []
    for cut in cuts:
        pieces.append(sent[:cut])
        sent = sent[cut:]
    (request,), heard = served([*pieces, sent])
    assert ("GET", f"/x{path}", query) == (request.method, request.path, request.query)
    assert headers == {name: value for name, value in request.headers.items() if name.startswith("x-")}
    assert [200] == responses(heard, [request])


@given(st.text() | st.text().map("Basic {}".format) | st.binary().map(lambda raw: f"basic {raw.hex()}"))
def test_any_credentials_are_a_name_and_a_password_or_none(header):
    found = parse_basic(header)
    assert found is None or [bytes, bytes] == [type(one) for one in found]
