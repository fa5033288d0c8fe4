"""Access control before all routes: authentication, authorization, rate limit and configured headers.

Health checks need no credentials, because a kubelet has none; if credentials are configured, they return only their
first line. `passwords.py` and `reviews.py` check credentials.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from exporter.node import NodeError
from exporter.web.access.auth_queue import AuthQueue, AuthQueueFull
from exporter.web.access.config import RateLimit, WebConfig
from exporter.web.transport.messages import Handler, Headers, Request, Response

if TYPE_CHECKING:
    from exporter.web.access.live_config import LiveConfig
    from exporter.web.access.passwords import Passwords
    from exporter.web.access.reviews import Reviews

_OPEN_TO_ALL = ("/healthz", "/readyz")
_REALM = 'realm="calico-bpf-exporter"'
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750, section 2.1


class Access:
    """A handler that passes authorized requests to `inner`: by the web configuration or by reviews, if configured.

    `count_rejected` is called with the reason, the client's address and a sentence for each other request.
    """

    def __init__(
        self,
        inner: Handler,
        count_rejected: Callable[[str, str, str], None],
        auth_queue: AuthQueue,
        live: "LiveConfig | None" = None,
        reviews: "Reviews | None" = None,
    ) -> None:
        self._inner = inner
        self._count_rejected = count_rejected
        self._auth_queue = auth_queue
        self._live = live
        self._reviews = reviews
        self._config = WebConfig()
        self._passwords: Passwords | None = None
        self._bucket: _TokenBucket | None = None

    async def handle(self, request: Request) -> Response:
        """The response to one request, from `inner` or a refusal."""
        self._apply_config()
        if request.path in _OPEN_TO_ALL:
            response = await self._inner(request)
            if self._passwords or self._reviews:
                response = replace(response, body=response.body.partition(b"\n")[0] + b"\n")
        else:
            response = await self._auth_refusal(request) or self._rate_refusal(request) or await self._inner(request)
        return replace(response, headers=_merged(response.headers, self._config.headers))

    def _apply_config(self) -> None:
        if self._live is None:
            return
        self._live.refresh()
        old, new = self._config, self._live.config
        if new.users != old.users:
            from exporter.web.access.passwords import Passwords

            self._passwords = Passwords(new.users) if new.users else None
        if new.rate_limit != old.rate_limit:
            self._bucket = _TokenBucket(new.rate_limit) if new.rate_limit else None
        self._config = new

    async def _auth_refusal(self, request: Request) -> Response | None:
        """The rejection of an unauthorized request, None for an authorized one."""
        authorization = request.headers.get("authorization", "")
        try:
            if self._passwords:
                return await self._password_refusal(self._passwords, authorization, request)
            if self._reviews:
                return await self._token_refusal(self._reviews, authorization, request)
        except AuthQueueFull as error:
            return self._refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, "auth_queue_full", str(error))
        except NodeError:
            sentence = "the API server could not be reached for authorization"
            return self._refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", sentence)
        return None

    async def _password_refusal(self, passwords: "Passwords", authorization: str, request: Request) -> Response | None:
        from exporter.web.access.passwords import parse_basic

        given = parse_basic(authorization)
        if given and (
            passwords.is_cached(*given) or await self._auth_queue.check(request.client, lambda: passwords.check(*given))
        ):
            return None
        sentence = "authentication is required: the name and password of a user"
        return self._refuse(
            request, HTTPStatus.UNAUTHORIZED, "unauthorized", sentence, ("WWW-Authenticate", f"Basic {_REALM}")
        )

    async def _token_refusal(self, reviews: "Reviews", authorization: str, request: Request) -> Response | None:
        scheme, _, token = authorization.partition(" ")
        verdict = HTTPStatus.UNAUTHORIZED
        if scheme.lower() == "bearer" and _TOKEN.fullmatch(token.strip()):
            verdict = await reviews.review(token.strip(), request.path, request.client)
        if verdict is HTTPStatus.FORBIDDEN:
            sentence = f"the token's user may not get the non-resource URL {request.path}"
            return self._refuse(request, verdict, "forbidden", sentence)
        if verdict is HTTPStatus.UNAUTHORIZED:
            sentence = "authentication is required: a bearer token that is valid in this cluster"
            return self._refuse(request, verdict, "unauthorized", sentence, ("WWW-Authenticate", f"Bearer {_REALM}"))
        return None

    def _rate_refusal(self, request: Request) -> Response | None:
        # After authentication: other clients must not use up the limit.
        if self._bucket is None or self._bucket.take():
            return None
        again = ("Retry-After", str(math.ceil(self._bucket.seconds_to_next())))
        return self._refuse(request, HTTPStatus.TOO_MANY_REQUESTS, "rate_limit", "too many requests; try again", again)

    def _refuse(
        self, request: Request, status: HTTPStatus, reason: str, sentence: str, *headers: tuple[str, str]
    ) -> Response:
        self._count_rejected(reason, request.client, sentence)
        return Response(status, f"{sentence}\n".encode(), headers=headers)


class _TokenBucket:
    """Tokens that are added at an interval, up to the burst."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._last = time.monotonic()

    def take(self) -> bool:
        """Takes a token, if there is one."""
        now = time.monotonic()
        self._tokens = min(self._limit.burst, self._tokens + (now - self._last) / self._limit.interval)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def seconds_to_next(self) -> float:
        """Until there is a token, as of the last time that there was none."""
        return (1 - self._tokens) * self._limit.interval


def _merged(headers: Headers, configured: Headers) -> Headers:
    names = {name.lower() for name, _ in configured}
    return (*((name, value) for name, value in headers if name.lower() not in names), *configured)
