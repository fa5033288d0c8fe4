"""Requests and responses, and the handler between them: all that a handler needs to know of the transport."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. Header names are lower case, the values of repeated headers are joined with commas.

    `query` is the part after the question mark, `client` the address of the client.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    client: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """A response; content length and connection headers are added when it is sent."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Headers = ()


Handler = Callable[[Request], Awaitable[Response]]
