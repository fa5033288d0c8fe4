"""`--kubernetes.authorization` in a process: scrapers, unknown clients, floods, and an API server that fails."""

import re
import socket
import subprocess
import time
from collections import Counter

import pytest

from tests import installed
from tests.web.authority import Authority
from tests.web.conftest import Running
from tests.web.fake_api_server import ACCESS_REVIEWS, TOKEN_REVIEWS, Answer, FakeApiServer, Raw, refusal

GOOD = {"Authorization": "Bearer good"}
KNOWN_BY_NOBODY = "authentication is required: a bearer token that is valid in this cluster\n"
NOT_ASKED = "the API server could not be reached for authorization\n"
ODD = "A-z.0_9~+/=="
LONG = "eyJhbGciOiJSUzI1NiJ9." + "a" * 10_000


def token(text):
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("apiserver", "IP:127.0.0.1")


def cluster(authority, pair):
    fake = FakeApiServer(authority, pair)
    fake.users = {
        **{one: {"username": "prometheus", "uid": "1", "groups": ["scrapers"]} for one in ("good", "new", ODD, LONG)},
        "poor": {"username": "paul", "extra": {"a/b": ["c"]}},
    }
    fake.rights = {("prometheus", "/metrics"), ("prometheus", "/")}
    return fake


@pytest.fixture(scope="module")
def both(authority, pair, shared_server, tmp_path_factory):
    """An API server and an exporter that stay as they are, for all tests of the module."""
    fake = cluster(authority, pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        running = shared_server(kubeconfig=str(fake.kubeconfig(tmp_path_factory.mktemp("kube") / "config")))
    yield fake, running
    fake.stop()
    assert [] == fake.faults


@pytest.fixture
def fake_api(authority, pair, monkeypatch):
    """An API server for one test, that may fail."""
    monkeypatch.setenv("NO_PROXY", "*")
    fake = cluster(authority, pair)
    yield fake
    fake.stop()
    assert [] == fake.faults


@pytest.fixture
def running(fake_api, server, tmp_path):
    return server(kubeconfig=str(fake_api.kubeconfig(tmp_path / "config")))


def test_a_scraper_with_a_right_sees_the_metrics(both):
    fake, running = both
    answer = running.ask(headers=GOOD)
    assert (200, True) == (answer.status, answer.success("counters"))
    (access,) = [spec for one in fake.asked(ACCESS_REVIEWS) if (spec := one["spec"])["user"] == "prometheus"]
    who = {"user": "prometheus", "uid": "1", "groups": ["scrapers"]}
    assert {**who, "nonResourceAttributes": {"path": "/metrics", "verb": "get"}} == access


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing", "/healthz/", "//healthz", "/readyz%20"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_without_a_token_nothing_is_seen_and_nobody_is_asked(both, path, method):
    fake, running = both
    before = len(fake.seen)
    answer = running.ask(path, method)
    assert (401, 'Bearer realm="calico-bpf-exporter"') == (answer.status, answer.headers["www-authenticate"])
    assert ("" if method == "HEAD" else KNOWN_BY_NOBODY) == answer.text
    assert before == len(fake.seen)


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", "Bearergood", "good", "Basic good", "Bearer good good", "Bearer good,good"),
        *("Bearer\tgood", 'Bearer "good"', "Bearer =good", "Bearer go=od", "Bearer g\xf6\xf6d", "Bearer good\x7f"),
        *("Bearer, Bearer good", "Bearer good, Basic good", "Digest Bearer good"),
    ],
)
def test_what_cannot_be_a_token_is_asked_of_nobody(both, value):
    fake, running = both
    before = len(fake.seen)
    assert running.ask(headers={"Authorization": value}).status in (400, 401)
    assert before == len(fake.seen)


@pytest.mark.parametrize("value", [f"Bearer {ODD}", f"Bearer {LONG}", "bearer new", "BEARER new", "Bearer   new "])
def test_a_token_arrives_as_it_was_sent_with_any_scheme(both, value):
    fake, running = both
    assert 200 == running.ask(headers={"Authorization": value}).status
    assert value.split()[1] in [one["spec"]["token"] for one in fake.asked(TOKEN_REVIEWS)]


@pytest.mark.parametrize("other", ["Bearer wrong", "Bearer good", "Basic Ym9iOnNlY3JldA=="])
@pytest.mark.parametrize("first", [True, False])
def test_of_two_authorizations_none_counts(both, other, first):
    values = ["Bearer good", other] if first else [other, "Bearer good"]
    lines = "".join(f"Authorization: {value}\r\n" for value in values)
    raw = both[1].raw(f"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{lines}\r\n".encode())
    assert raw.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 "))


def test_a_wrong_token_is_asked_about_once(both):
    fake, running = both
    for _ in range(3):
        answer = running.ask(headers=token("wrong"))
        assert (401, KNOWN_BY_NOBODY) == (answer.status, answer.text)
        assert "www-authenticate" in answer.headers
    assert 1 == [one["spec"]["token"] for one in fake.asked(TOKEN_REVIEWS)].count("wrong")


@pytest.mark.parametrize(("target", "path"), [("/metrics?collect[]=maps", "/metrics"), ("/", "/"), ("/%6detrics",) * 2])
def test_a_user_without_a_right_is_told_which_is_missing(both, target, path):
    answer = both[1].ask(target, headers=token("poor"))
    expected = f"the token's user may not get the non-resource URL {path}\n"
    assert (403, expected) == (answer.status, answer.text)
    assert (403, b"") == (answer.status, both[1].ask(target, "HEAD", token("poor")).body)


@pytest.mark.parametrize("target", ["/%6detrics", "/metrics/", "/nothing"])
def test_a_right_to_the_metrics_is_none_to_anything_else(both, target):
    assert [403, 200] == [both[1].ask(path, headers=GOOD).status for path in (target, "/metrics")]


def test_a_head_takes_the_right_to_get(both):
    fake, running = both
    answer = running.ask(method="HEAD", headers=GOOD)
    assert (200, b"") == (answer.status, answer.body)
    assert {"get"} == {one["spec"]["nonResourceAttributes"]["verb"] for one in fake.asked(ACCESS_REVIEWS)}
    assert 405 == running.ask(method="POST", headers=GOOD).status


@pytest.mark.parametrize("headers", [{}, token("unheard-of"), GOOD])
def test_health_is_open_to_all_and_asks_nobody(both, headers):
    fake, running = both
    running.ask(headers=GOOD)
    before = len(fake.seen)
    assert ["ok\n", "ready\n"] == [running.ask(path, headers=headers).text for path in ("/healthz", "/readyz")]
    assert before == len(fake.seen)


def test_unknown_clients_learn_the_first_line_of_readiness_alone(fake_api, unchecked_server, tmp_path):
    broken = {"real": False, "extra": [{"name": "broken", "error": "a bug"}]}
    running = unchecked_server(kubeconfig=str(fake_api.kubeconfig(tmp_path / "config")), **broken)
    answer = running.ask("/readyz")
    assert (503, "not ready\n") == (answer.status, answer.text)


def rejected(running, reason):
    return running.ask(headers=GOOD).value(f'calico_bpf_exporter_scrapes_rejected_total{{reason="{reason}"}}')


def test_while_the_server_is_away_those_it_knows_come_in_and_nobody_else(fake_api, running, until):
    assert [200, 401] == [running.ask(headers=one).status for one in (GOOD, token("wrong"))]
    fake_api.stop()
    for _ in range(3):
        answer = running.ask(headers=token("new"))
        assert (503, NOT_ASKED) == (answer.status, answer.text)
        watch = running.stopwatch()
    assert [200, 401, 200] == [running.ask(headers=one).status for one in (GOOD, token("wrong"), GOOD)]
    assert watch.seconds() < 1
    assert 503 == running.ask("/other", headers=GOOD).status
    assert 200 == running.ask("/healthz").status
    assert 4 == rejected(running, "unavailable")
    fake_api.start()
    assert until(lambda: running.ask(headers=token("new")).status == 200)


def test_that_the_server_is_away_is_said_once_and_that_it_is_back(fake_api, running, until):
    fake_api.stop()
    for number in range(3):
        assert 503 == running.ask(headers=token(f"new-{number}")).status
    fake_api.start()
    assert until(lambda: running.ask(headers=GOOD).status == 200)
    said = re.findall(
        r"token reviews failed, rejecting new clients: the API server \S+ did not answer: .*refused", running.log()
    )
    assert [1, 1] == [len(said), running.log().count("token reviews work again")]


def test_a_scraper_that_is_remembered_does_not_make_the_log_say_that_the_server_is_back(fake_api, running):
    assert 200 == running.ask(headers=GOOD).status
    fake_api.stop()
    for number in range(3):
        assert [503, 200] == [running.ask(headers=one).status for one in (token(f"new-{number}"), GOOD)]
    assert [1, 0] == [running.log().count(said) for said in ("token reviews failed", "work again")]


def test_a_server_that_answers_one_kind_of_review_is_said_once_to_fail(fake_api, running):
    fake_api.answers[ACCESS_REVIEWS] = refusal(403, "subjectaccessreviews is forbidden")
    for name in ("good", "new", ODD, "wrong"):
        running.ask(headers=token(name))
    assert [1, 0] == [running.log().count(said) for said in ("token reviews failed", "work again")]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Answer(200, b"<html>"), "something that is no object"),
        (Answer(201, {"kind": "Review"}), "without a status"),
        (refusal(403, "reviews is forbidden"), "reviews is forbidden"),
        (refusal(401, "Unauthorized"), "does not know this exporter's own credentials"),
        (Raw([b"HTTP/1.1 200 OK\r\n"]), "did not answer"),
        (Answer(302, b"", {"Location": "/metrics"}), "with 302"),
    ],
)
@pytest.mark.parametrize("path", [TOKEN_REVIEWS, ACCESS_REVIEWS])
def test_what_is_no_review_lets_nobody_in_and_is_told_to_the_log_alone(both, until, reply, said, path):
    fake, running = both
    name = f"case-{len(fake.users)}"
    fake.users[name] = {"username": name}
    fake.rights.add((name, "/"))
    before = len(running.log())
    fake.answers[path] = reply
    answer = running.ask("/", headers=token(name))
    fake.answers.clear()
    assert (503, NOT_ASKED) == (answer.status, answer.text)
    assert said in running.log()[before:]
    assert until(lambda: running.ask("/", headers=token(name)).status == 200)


def test_a_server_that_fails_slowly_keeps_nobody_waiting_longer_than_it_takes(fake_api, running):
    fake_api.answers[TOKEN_REVIEWS] = Answer(500, pause=0.7)
    watch = running.stopwatch()
    assert 503 == running.ask(headers=GOOD).status
    assert watch.seconds() < 3


@pytest.mark.parametrize("case", ["no token file", "no Unicode"])
def test_whatever_goes_wrong_with_a_review_is_answered(fake_api, server, tmp_path, case):
    user = {"tokenFile": str(tmp_path / "nowhere")} if case == "no token file" else None
    fake_api.users["odd"] = {"username": "\ud800"}
    running = server(kubeconfig=str(fake_api.kubeconfig(tmp_path / "config", user)))
    assert 503 == running.ask(headers=token("odd")).status


def send(running, text, address):
    """A request for `/` with this token that is on its way, from an address of this host."""
    client = socket.create_connection(("127.0.0.1", running.ports[0]), 30, (address, 0))
    client.sendall(
        f"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\nAuthorization: Bearer {text}\r\n\r\n".encode()
    )
    return client


@pytest.mark.parametrize("addresses", [1, 40])
def test_a_flood_of_tokens_reaches_the_server_in_drops_and_delays_no_known_scraper(
    fake_api, running, answer, read_to_end, addresses
):
    assert [200, 200] == [running.ask(path, headers=GOOD).status for path in ("/", "/metrics")]
    start, waits, clients = time.monotonic(), [], []
    while time.monotonic() - start < 1.5:
        for _ in range(10):
            number = len(clients)
            clients.append(send(running, f"wrong-{number}", f"127.0.0.{2 + number % addresses}"))
        watch = running.stopwatch()
        assert 200 == running.ask("/", headers=GOOD).status
        waits.append(watch.seconds())
        time.sleep(0.1)
    reviews = len(fake_api.asked(TOKEN_REVIEWS)) - 1
    assert 3 < reviews < (time.monotonic() - start) / 0.1 + 2
    assert max(waits) < 1
    statuses = Counter()
    for client in clients:
        statuses[answer(read_to_end(client)).status] += 1
        client.close()
    assert {401, 503} == set(statuses)
    assert statuses[401] == len(fake_api.asked(TOKEN_REVIEWS)) - 1
    assert statuses[503] == rejected(running, "auth_queue_full")


def test_a_flood_from_one_address_leaves_a_place_to_those_who_come_first_from_another(fake_api, running):
    clients = [send(running, f"wrong-{number}", "127.0.0.2") for number in range(50)]
    watch = running.stopwatch()
    assert 200 == running.ask("/", headers=token("new")).status
    assert watch.seconds() < 5
    for client in clients:
        client.close()


def test_the_program_itself_asks_the_server_of_its_flag_and_starts_without_it(fake_api, tmp_path, until):
    fake_api.stop()
    folder, log = tmp_path / "node", tmp_path / "log"
    folder.mkdir()
    flags = ["--bpf.fs", folder, "--calico.run-dir", folder, "--web.listen-address", "127.0.0.1:0"]
    flags += ["--kubernetes.authorization", "--kubernetes.kubeconfig", fake_api.kubeconfig(tmp_path / "config")]
    with log.open("wb") as errors:
        process = subprocess.Popen([installed.program(), "serve", *map(str, flags)], stderr=errors)
    try:
        found = until(lambda: re.search(r"on 127.0.0.1 port (\d+)", log.read_text()), 20)
        running = Running(process, [int(found[1])], log)
        assert 503 == running.ask(headers=GOOD).status
        fake_api.start()
        assert until(lambda: running.ask(headers=GOOD).status == 200)
        assert 401 == running.ask(headers=token("wrong")).status
        assert "bearer tokens cross the network in the clear" in running.log()
    finally:
        process.kill()
        process.wait()
