"""Authenticates and authorizes bearer tokens through the cluster's API server.

As kube-state-metrics does (controller-runtime's `filters`): a TokenReview, then a SubjectAccessReview for `get` on the
path as a non-resource URL. Results are cached as long as there (controller-runtime of 2026-08: tokens one minute,
allowed five, denied half a minute). Without a result, access is denied.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from cachetools import LRUCache, TTLCache

from exporter.node.api_server import ApiServerError
from exporter.web.access.auth_queue import AuthQueue

log = logging.getLogger("exporter.web")

_T = TypeVar("_T")

_MAX_KEPT = 256
_TOKEN_SECONDS, _ALLOWED_SECONDS, _DENIED_SECONDS = 60, 300, 30
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105  a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class ApiServer(Protocol):
    """The part of the Kubernetes API that reviews need."""

    def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Posts `body` and returns the created object. Raises `ApiServerError`."""


class Reviews:
    """Reviews of tokens, which are cached as keyed digests. Used only on the event loop."""

    def __init__(self, api: ApiServer, auth_queue: AuthQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._auth_queue = auth_queue
        self._key = os.urandom(32)
        self._problems: dict[str, str] = {}
        self._users: TTLCache[bytes, str] = TTLCache(_MAX_KEPT, _TOKEN_SECONDS, clock)
        # Separate, so that many invalid tokens do not evict the valid ones.
        self._unknown: TTLCache[bytes, bool] = TTLCache(_MAX_KEPT, _TOKEN_SECONDS, clock)
        self._allowed: TTLCache[tuple[str, str], bool] = TTLCache(_MAX_KEPT, _ALLOWED_SECONDS, clock)
        self._denied: TTLCache[tuple[str, str], bool] = TTLCache(_MAX_KEPT, _DENIED_SECONDS, clock)
        self._admitted: LRUCache[bytes, bool] = LRUCache(_MAX_KEPT)

    async def review(self, token: str, path: str, client: str) -> HTTPStatus:
        """OK, UNAUTHORIZED for an invalid token, or FORBIDDEN. Raises `AuthQueueFull` and `ApiServerError`."""
        digest = hashlib.blake2b(token.encode(), key=self._key, digest_size=32).digest()
        if digest in self._unknown:
            return HTTPStatus.UNAUTHORIZED
        # Every pod has a valid token: only tokens that were authorized before have priority.
        known = digest in self._admitted
        user = self._users.get(digest)
        if user is None:
            user = await self._ask("tokens", lambda: _user_of(self._api, token), client, known=known)
            if user is None:
                self._unknown[digest] = True
                return HTTPStatus.UNAUTHORIZED
            self._users[digest] = user
        if not await self._authorized(user, path, client, known=known):
            return HTTPStatus.FORBIDDEN
        self._admitted[digest] = True
        return HTTPStatus.OK

    async def _authorized(self, user: str, path: str, client: str, *, known: bool) -> bool:
        asked = (user, path)
        if asked in self._allowed:
            return True
        if asked in self._denied:
            return False
        allowed = await self._ask("access", lambda: _is_allowed(self._api, user, path), client, known=known)
        (self._allowed if allowed else self._denied)[asked] = True
        return allowed

    async def _ask(self, kind: str, question: Callable[[], _T], client: str, *, known: bool) -> _T:
        try:
            answer = await self._auth_queue.check(client, question, known=known)
        except ApiServerError as error:
            # Logged when it starts and ends, not for every request.
            if str(error) not in self._problems.values():
                log.error("token reviews failed, rejecting new clients: %s", error)  # noqa: TRY400  a sentence
            self._problems[kind] = str(error)
            raise
        if self._problems.pop(kind, None) and not self._problems:
            log.info("token reviews work again")
        return answer


def _user_of(api: ApiServer, token: str) -> str | None:
    """The token's user as JSON, None for an invalid token."""
    status = _status(api.create(_TOKEN_REVIEWS, _object("authentication", "TokenReview", {"token": token})))
    if status.get("authenticated") is not True:
        return None
    user = status.get("user")
    if not isinstance(user, dict) or not isinstance(user.get("username"), str) or not user["username"]:
        raise ApiServerError("the API server authenticated a token and named no user")
    return json.dumps(user, sort_keys=True)


def _is_allowed(api: ApiServer, user: str, path: str) -> bool:
    who = json.loads(user)
    spec = {
        "user": who["username"],
        **{name: who[name] for name in ("uid", "groups", "extra") if name in who},
        # For HEAD too: it returns less than GET, and roles usually allow only `get`.
        "nonResourceAttributes": {"path": path, "verb": "get"},
    }
    status = _status(api.create(_ACCESS_REVIEWS, _object("authorization", "SubjectAccessReview", spec)))
    return status.get("allowed") is True and not status.get("denied")


def _object(group: str, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, "spec": spec}


def _status(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    status = reply.get("status")
    if not isinstance(status, dict):
        raise ApiServerError("the API server answered a review without a status")
    return status
