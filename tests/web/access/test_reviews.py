"""Reviews of bearer tokens: what is asked, how long an answer counts, and what is no yes."""

import asyncio
import re
import threading
from http import HTTPStatus

import pytest

from exporter.node.api_server import ApiServerError
from exporter.web.access.auth_queue import AuthQueue, AuthQueueFull
from exporter.web.access.reviews import Reviews
from tests.web.fake_api_server import ACCESS_REVIEWS, TOKEN_REVIEWS

OK, UNAUTHORIZED, FORBIDDEN = HTTPStatus.OK, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN
ALL = {"username": "anna", "uid": "7", "groups": ["a", "b"], "extra": {"scopes/x": ["1", "2"], "y": []}}
KEPT = 256


class Api:
    """Says of each token what `tokens` says, and yes to the users and paths in `rights`; notes what it is asked."""

    def __init__(self):
        self.tokens, self.rights, self.asked, self.replies, self.now, self.known = {}, set(), [], [], 0.0, []
        self.reviews = Reviews(self, self, lambda: self.now)

    def create(self, path, body):
        self.asked.append((path, body))
        if self.replies:
            reply = self.replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply
        spec = body["spec"]
        if path == TOKEN_REVIEWS:
            user = self.tokens.get(spec["token"])
            return {"status": {"authenticated": True, "user": user} if user else {}}
        return {"status": {"allowed": (spec["user"], spec["nonResourceAttributes"]["path"]) in self.rights}}

    async def check(self, client, job, *, known=False):
        self.known.append(known)  # the auth_queue's part, without its threads and rests
        return job()

    def ask(self, token="good", path="/metrics"):
        """The verdict, and how many reviews of each kind it took."""
        before = self.counts()
        verdict = asyncio.run(self.reviews.review(token, path, "192.0.2.1"))
        return verdict, *(after - was for after, was in zip(self.counts(), before, strict=True))

    def counts(self):
        return [sum(path == kind for path, _ in self.asked) for kind in (TOKEN_REVIEWS, ACCESS_REVIEWS)]


@pytest.fixture
def api():
    api = Api()
    api.tokens = {"good": ALL, "poor": {"username": "paul"}}
    api.rights = {("anna", "/metrics")}
    return api


def test_a_user_is_asked_about_with_all_that_the_token_said(api):
    assert (OK, 1, 1) == api.ask()
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "good"}}
    spec = {"user": "anna", "uid": "7", "groups": ["a", "b"], "extra": {"scopes/x": ["1", "2"], "y": []}}
    spec["nonResourceAttributes"] = {"path": "/metrics", "verb": "get"}
    access = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    assert [(TOKEN_REVIEWS, token), (ACCESS_REVIEWS, access)] == api.asked


def test_a_user_is_asked_about_with_no_more_than_the_token_said(api):
    api.tokens["good"] = {"username": "anna", "another": "field", "user": "root"}
    api.ask()
    assert {"user", "nonResourceAttributes"} == set(api.asked[1][1]["spec"])
    assert "anna" == api.asked[1][1]["spec"]["user"]


@pytest.mark.parametrize(
    ("token", "first", "later"),
    [
        ("good", (OK, 1, 1), {0: (0, 0), 59.9: (0, 0), 60: (1, 0), 119.9: (0, 0), 299: (1, 0), 300: (0, 1)}),
        ("poor", (FORBIDDEN, 1, 1), {0: (0, 0), 29.9: (0, 0), 30: (0, 1), 59.9: (0, 0), 60: (1, 1), 89.9: (0, 0)}),
        ("none", (UNAUTHORIZED, 1, 0), {0: (0, 0), 59.9: (0, 0), 60: (1, 0), 119.9: (0, 0), 120: (1, 0)}),
    ],
)  # fmt: skip
def test_a_token_counts_a_minute_a_yes_five_and_a_no_half_of_one(api, token, first, later):
    assert first == api.ask(token)
    asked = {}
    for api.now in later:
        verdict, *asked[api.now] = api.ask(token)
        assert first[0] == verdict
    assert {now: list(counts) for now, counts in later.items()} == asked


@pytest.mark.parametrize(
    ("change", "seconds", "before", "after"),
    [
        (lambda api: api.tokens.pop("good"), 60, OK, UNAUTHORIZED),
        (lambda api: api.rights.clear(), 300, OK, FORBIDDEN),
        (lambda api: api.tokens.update(good=ALL | {"groups": []}), 60, OK, OK),
    ],
)
def test_what_is_taken_away_is_gone_when_its_time_is_over(api, change, seconds, before, after):
    api.ask()
    change(api)
    for api.now, verdict in ((seconds - 0.1, before), (seconds, after)):
        assert verdict == api.ask()[0]


@pytest.mark.parametrize(
    ("give", "token", "seconds"),
    [
        (lambda api: api.tokens.update(new=ALL), "new", 60),
        (lambda api: api.rights.add(("paul", "/metrics")), "poor", 30),
    ],
)
def test_what_is_given_is_seen_when_the_no_is_over(api, give, token, seconds):
    first = api.ask(token)[0]
    give(api)
    for api.now, verdict in ((seconds - 0.1, first), (seconds, OK)):
        assert verdict == api.ask(token)[0]


def test_a_user_who_is_another_now_is_reviewed_again(api):
    api.ask()
    api.tokens["same-name"] = {**ALL, "groups": ["a"]}
    assert (OK, 1, 1) == api.ask("same-name")
    api.tokens["same-user"] = dict(reversed(ALL.items()))
    assert (OK, 1, 0) == api.ask("same-user")


@pytest.mark.parametrize("path", ["/metrics/", "/Metrics", "//metrics", "/metric", "/metrics%20", "/", "", "/*"])
def test_a_right_is_for_the_one_path_and_the_one_user(api, path):
    assert [OK, FORBIDDEN] == [api.ask()[0], api.ask("good", path)[0]]
    assert path == api.asked[-1][1]["spec"]["nonResourceAttributes"]["path"]
    assert [FORBIDDEN, OK] == [api.ask("poor")[0], api.ask()[0]]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_not_kept(api, failing):
    api.replies = [{"status": {"authenticated": True, "user": ALL}}] * failing + [ApiServerError("away")]
    with pytest.raises(ApiServerError):
        api.ask()
    assert (OK, 1 - failing, 1) == api.ask()


def test_an_error_takes_nothing_from_what_is_known(api):
    api.ask()
    api.replies = [ApiServerError("away")]
    with pytest.raises(ApiServerError):
        api.ask("another")
    assert (OK, 0, 0) == api.ask()


def verdict_or_error(api):
    try:
        return api.ask()[0]
    except ApiServerError as error:
        return ApiServerError if str(error).isprintable() else str(error)


NONE = [{}, {"status": None}, {"status": []}, {"status": [{"allowed": True}]}, {"status": "yes"}, {"kind": "Status"}]
NO_YES = ("true", 1, [True], None, {}, False)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *((reply, ApiServerError) for reply in NONE),
        *(({"status": {"authenticated": yes, "user": ALL}}, UNAUTHORIZED) for yes in NO_YES),
        ({"status": {"user": ALL}}, UNAUTHORIZED),
        ({"status": {"error": "invalid bearer token"}}, UNAUTHORIZED),
        ({"authenticated": True, "user": ALL, "status": {}}, UNAUTHORIZED),
        *(
            ({"status": {"authenticated": True, "user": user}}, ApiServerError)
            for user in (None, {}, [], "anna", [ALL], {"uid": "7"}, *({"username": name} for name in ("", None, 7)))
        ),
        ({"status": {"authenticated": True}}, ApiServerError),
        ({"kind": "a\nb"}, ApiServerError),
    ],
)  # fmt: skip
def test_a_token_review_that_does_not_say_yes_and_who_lets_nobody_in(api, reply, expected):
    api.replies = [reply]
    assert expected == verdict_or_error(api)
    assert [1, 0] == api.counts()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *((reply, ApiServerError) for reply in NONE),
        *(({"status": {"allowed": yes}}, FORBIDDEN) for yes in NO_YES),
        ({"status": {}}, FORBIDDEN),
        ({"allowed": True, "status": {}}, FORBIDDEN),
        ({"status": {"allowed": False, "evaluationError": "no such role"}}, FORBIDDEN),
        ({"status": {"allowed": True, "denied": True}}, FORBIDDEN),
        ({"status": {"allowed": False, "denied": True}}, FORBIDDEN),
        ({"status": {"allowed": True, "denied": False}}, OK),
        *(({"status": {"allowed": True, "denied": no}}, FORBIDDEN) for no in ("true", 1)),
    ],
)
def test_an_access_review_that_does_not_plainly_allow_lets_nobody_in(api, reply, expected):
    api.replies = [{"status": {"authenticated": True, "user": ALL}}, reply]
    assert expected == verdict_or_error(api)


MANY = 2 * KEPT


@pytest.mark.parametrize("kind", ["tokens of users", "wrong tokens", "allowed paths", "forbidden paths"])
def test_what_is_kept_is_bounded(api, kind):
    names = [f"{kind} {number}" for number in range(MANY)]
    if kind == "tokens of users":
        api.tokens = dict.fromkeys(names, ALL)
    if kind == "allowed paths":
        api.rights = {("anna", name) for name in names}
    asks = [("good", name) if "path" in kind else (name, "/metrics") for name in names]
    first = [sum(api.ask(*one)[1:]) for one in asks]
    assert MANY <= sum(first)
    again = sum(sum(api.ask(*one)[1:]) for one in reversed(asks))
    assert MANY - KEPT == again  # the last ones are kept


@pytest.mark.parametrize("kind", ["wrong tokens", "forbidden paths", "users without a right"])
def test_whoever_has_no_right_pushes_out_nobody_who_has(api, kind):
    api.tokens |= {f"poor {number}": {"username": f"paul {number}"} for number in range(KEPT - 2)}
    api.ask()
    for number in range(MANY):
        ask = {"wrong tokens": (f"wrong {number}", "/metrics"), "forbidden paths": ("poor", f"/{number}")}
        api.ask(*ask.get(kind, (f"poor {number % (KEPT - 2)}", f"/{number}")))
    assert (OK, 0, 0) == api.ask()


def test_only_a_token_that_saw_something_goes_before_others_when_it_is_asked_about_again(api):
    for api.now in (0, 400):
        for token in ("good", "poor", "wrong"):
            api.ask(token)
    assert [False] * 5 + [True, True] + [False] * 3 == api.known


def test_who_goes_before_others_is_next_though_others_came_first():
    order, auth_queue, held = [], AuthQueue(), threading.Event()

    async def crowd():
        waiting = [auth_queue.check("192.0.2.1", lambda: held.wait(10))]
        waiting += [auth_queue.check("192.0.2.2", lambda: order.append("other") or True) for _ in range(3)]
        waiting += [auth_queue.check("192.0.2.2", lambda: order.append("known") or True, known=True) for _ in range(9)]
        waiting = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(0.1)
        held.set()
        await asyncio.gather(*waiting)

    asyncio.run(crowd())
    assert ["known"] * 9 + ["other"] * 3 == order


def test_an_addresss_first_check_goes_before_those_of_addresses_that_fill_the_queue():
    order, auth_queue, held = [], AuthQueue(), threading.Event()

    async def crowd():
        waiting = [auth_queue.check("192.0.2.1", lambda: held.wait(10))]
        for number in range(8):  # as many as may wait in all
            client = f"198.51.100.{number}"
            waiting += [auth_queue.check(client, lambda: order.append("flood") or True) for _ in range(4)]
        waiting.append(auth_queue.check("192.0.2.2", lambda: order.append("first") or True))
        waiting = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(0.1)
        held.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert asyncio.run(crowd())[-1] is True
    assert "first" in order[:9]  # after the eight that were each their address's first


def test_where_no_thread_can_be_started_nobody_comes_in_and_no_place_is_taken_for_ever(monkeypatch):
    auth_queue = AuthQueue()

    def refused(_):
        raise RuntimeError("can't start new thread")

    def check():
        return asyncio.run(auth_queue.check("192.0.2.1", lambda: True))

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        for _ in range(9):
            with pytest.raises(AuthQueueFull, match="limit of processes"):
                check()
    assert check() is True


def test_tokens_are_not_kept_but_digests_that_are_worth_nothing_elsewhere(api):
    secret, wrong, other = "eyJhbGciOi.secret", "eyJhbGciOi.wrong", Api()
    api.tokens = other.tokens = {secret: ALL}
    kept = []
    for one in (api, other):
        one.ask(secret)
        one.ask(wrong)
        stores = [value for value in vars(one.reviews).values() if hasattr(value, "keys")]
        kept.append({key for store in stores for key in store if isinstance(key, bytes)})
        assert not re.search("secret|wrong", repr([dict(store) for store in stores]))
    assert 2 == len(kept[0]) == len(kept[1])
    assert not kept[0] & kept[1]
