"""The API server's client over real TLS: each failure is one error in a bounded time, and the client recovers."""

import base64
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import suppress

import pytest

from exporter.node import api_server
from exporter.node.api_server import ApiServer, ApiServerError
from tests.stopwatch import Stopwatch
from tests.web.authority import Authority
from tests.web.fake_api_server import LOCAL, TOKEN_REVIEWS, Answer, FakeApiServer, Raw, refusal

REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "scraper-token"}}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n"

IN_TIME = "did not answer: (timed out|no whole answer after 1 s)$"


def drops(*first):
    """These bytes, and then one now and then for four seconds."""
    return Raw((*first, *((b"1", 0.2) * 20)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("apiserver", *LOCAL)


@pytest.fixture
def fake(authority, pair, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    fake = FakeApiServer(authority, pair)
    fake.users["scraper-token"] = {"username": "prometheus"}
    yield fake
    fake.stop()
    assert [] == fake.faults


@pytest.fixture
def connect(fake, tmp_path):
    """The exporter's side, with fields of the kubeconfig's user and cluster or with another kubeconfig."""
    made = []

    def run(user=None, path=None, **cluster):
        made.append(ApiServer(path or fake.kubeconfig(tmp_path / f"config-{len(made)}", user, **cluster)))
        return made[-1]

    yield run
    for one in made:
        one.close()


@pytest.fixture
def short_timeouts(monkeypatch):
    """Timeouts of one second, for fast tests."""
    monkeypatch.setattr(api_server, "_TIMEOUT", 1.0)
    monkeypatch.setattr(api_server, "_WHOLE_TIMEOUT", 1.0)


def works(api):
    return api.create(TOKEN_REVIEWS, REVIEW)["status"]["user"]["username"] == "prometheus"


def sentence(ask, seconds=10):
    """The one sentence with which `ask` fails, in time and without a secret."""
    watch = Stopwatch(os.getpid())
    with pytest.raises(ApiServerError) as caught:
        ask()
    assert watch.seconds() < seconds
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    assert "own-token" not in text
    return text


def refused(api, seconds=10):
    return sentence(lambda: api.create(TOKEN_REVIEWS, REVIEW), seconds)


def test_an_object_is_posted_and_the_one_that_comes_back_is_returned(fake, connect):
    said = connect().create(TOKEN_REVIEWS, REVIEW)
    assert "prometheus" == said["status"]["user"]["username"]
    (request,) = fake.seen
    assert ("POST", TOKEN_REVIEWS, REVIEW) == (request.method, request.path, request.json)
    assert "Bearer own-token" == request.headers["authorization"]


def test_what_it_never_runs_is_not_loaded(fake, tmp_path):
    code = (
        "import json, sys; from pathlib import Path; from exporter.node.api_server import ApiServer\n"
        "ApiServer(Path(sys.argv[1])).create(sys.argv[2], json.loads(sys.argv[3]))\n"
        "print([one for one in ('h2', 'hpack', 'anyio') if sys.modules.get(one)])"
    )
    words = [sys.executable, "-c", code, str(fake.kubeconfig(tmp_path / "config")), TOKEN_REVIEWS, json.dumps(REVIEW)]
    assert "[]\n" == subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_server_with_a_path_of_its_own_is_asked_below_it(fake, connect):
    refused(connect(server=f"{fake.url}/k8s/clusters/c-1"))
    assert f"/k8s/clusters/c-1{TOKEN_REVIEWS}" == fake.seen[0].path


def test_a_client_certificate_is_shown_in_place_of_a_token(fake, connect, authority):
    pem, key = authority.issue("exporter")
    assert works(connect({"client-certificate": str(pem), "client-key": str(key)}))
    inline = {"client-certificate-data": pem, "client-key-data": key}
    inline = {name: base64.b64encode(path.read_bytes()).decode() for name, path in inline.items()}
    assert works(connect(inline))
    assert [("exporter", None)] * 2 == [(one.subject, one.headers.get("authorization")) for one in fake.seen]


@pytest.fixture
def in_pod(fake, tmp_path, monkeypatch):
    for name, value in fake.service_account(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_a_service_account_says_where_the_server_is_and_who_we_are(fake, in_pod):
    api = ApiServer(service_account=in_pod)
    assert works(api)
    assert "Bearer own-token" == fake.seen[0].headers["authorization"]
    fake.own = "rotated"
    (in_pod / "token").write_text("rotated\n", encoding="utf-8")
    assert works(api)
    assert ["rotated"] == [one.headers["authorization"][7:] for one in fake.seen[1:]]
    api.close()


@pytest.mark.parametrize("gone", ["token", "ca.crt", "namespace", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"])
def test_a_service_account_that_is_not_whole_is_no_cluster(in_pod, monkeypatch, gone):
    monkeypatch.delenv(gone) if gone in os.environ else (in_pod / gone).unlink()
    said = sentence(lambda: ApiServer(service_account=in_pod))
    assert said.startswith("this process runs in no cluster that it could ask")
    assert "--kubernetes.kubeconfig" in said
    assert (gone == "ca.crt") == ("ca.crt" in said)


STATUSES = (400, 404, 409, 410, 418, 422, 429, 500, 502, 503, 504, 599, 999)
NO_OBJECT = "something that is no object"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        *((refusal(status, "for this reason"), f"with {status}: for this reason") for status in STATUSES),
        *((Answer(status, b"<html>\n<body>"), f" with {status}") for status in STATUSES),
        (refusal(401, "who?"), "does not know this exporter's own credentials (401): who?"),
        (refusal(403, "no!"), "does not let this exporter create tokenreviews (403): no!"),
        (Answer(403, []), "create tokenreviews (403)"),
        (Answer(401, b"\xff"), "own credentials (401)"),
        (Answer(200, b"<html>\n<body>"), NO_OBJECT),
        (Answer(201, b""), NO_OBJECT),
        (Answer(204, b""), NO_OBJECT),
        (Answer(200, [{"status": {}}]), NO_OBJECT),
        (Answer(200, None), NO_OBJECT),
        (Answer(200, "status"), NO_OBJECT),
        (Answer(200, b'{"status": {}'), NO_OBJECT),
        (Answer(200, b"{} {}"), NO_OBJECT),
        (Answer(200, b"\xff\xfe\xff"), NO_OBJECT),
        (Answer(200, b"[" * 100_000), NO_OBJECT),
        (Answer(200, b"1" * 10_000), NO_OBJECT),
        (Answer(200, b"x" * 10_000_000), "more than 1 MiB"),
        (Answer(500, b"x" * 10_000_000), "with 500"),
        (Answer(401, b"x" * 10_000_000), "credentials (401)"),
        (Answer(200, b"no gzip", {"Content-Encoding": "gzip"}), ""),
        (Answer(200, gzip.compress(gzip.compress(b"5")), {"Content-Encoding": ", ".join(["gzip"] * 100)}), ""),
        (Answer(101, b"", {"Upgrade": "h2c", "Connection": "Upgrade"}), "did not answer"),
        (Raw([]), "did not answer"),
        (Raw([b"HTTP/1.1 200"]), "did not answer"),
        (Raw([HEAD]), "did not answer"),
        (Raw([HEAD + b"\r\n{"]), "did not answer"),
        (Raw([HEAD + b"Content-Length: 5\r\n\r\n{}   "]), "did not answer"),
        (Raw([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]), "did not answer"),
        (Raw([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"]), "did not answer"),
        (Raw([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000]), "did not answer"),
        (Raw([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"]), "did not answer"),
        (Raw([bytes(1000)]), "did not answer"),
        (refusal(403, "line\nline\x1b[2J\u2028\ud800"), "(403): line line"),
        (refusal(500, "x" * 500_000), " with 500: x"),
        (Answer(500, {"message": {"a": "line\nline"}}), " with 500"),
    ],
)  # fmt: skip
def test_whatever_it_answers_is_one_sentence_and_the_next_request_works(fake, connect, answer, said):
    api = connect()
    fake.answers[TOKEN_REVIEWS] = answer
    assert said in refused(api)
    fake.answers.clear()
    assert works(api)


@pytest.mark.parametrize(
    "answer",
    [
        drops(HEAD + b"\r\n"),
        drops(HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08" + bytes(6)),
        drops(b"HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\n"),
        drops(b"HTTP/1.1 401 No\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
def test_an_answer_that_does_not_end_is_not_waited_for(fake, connect, short_timeouts, tmp_path, answer):
    (tmp_path / "token").write_text("own-token", encoding="utf-8")
    api = connect({"tokenFile": str(tmp_path / "token")})
    assert works(api)
    fake.answers[TOKEN_REVIEWS] = answer
    assert re.search("did not answer|with 500|\\(401\\)", refused(api, seconds=3.5))
    fake.answers.clear()
    assert works(api)


def drip(data, pause=0.2):
    """These bytes one at a time, for some seconds."""
    return Raw([piece for byte in data for piece in (bytes([byte]), pause)])


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 " + b"O" * 30),
        drip(HEAD + b"X: " + b"a" * 30),
        Raw((b"HTTP/1.1 200 OK\r\n", *((b"X: a\r\n", 0.2) * 20))),
        Raw((b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.05) * 100),
        Raw((b"HTTP/1.1 100 Continue\r\n\r\n", 0.05) * 100),
    ],
    ids=["status line", "header", "headers", "hints", "continue"],
)
def test_a_head_that_does_not_end_is_not_waited_for(fake, connect, short_timeouts, answer):
    api = connect()
    fake.answers[TOKEN_REVIEWS] = answer
    assert re.search(IN_TIME, refused(api, seconds=3))
    fake.answers.clear()
    assert works(api)


def test_a_handshake_that_does_not_end_is_not_waited_for(connect, short_timeouts):
    """A TLS record of 16 KiB is announced and arrives a byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def send_slowly():
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.sendall(b"\x16\x03\x03\x40\x00")
                while not over.wait(0.1):
                    client.sendall(b"a")

        slow = threading.Thread(target=send_slowly)
        slow.start()
        api = connect(server=f"https://127.0.0.1:{listener.getsockname()[1]}")
        try:
            assert re.search(IN_TIME, refused(api, seconds=3))
        finally:
            over.set()
            slow.join()


def test_a_list_that_does_not_end_is_not_waited_for(fake, connect, short_timeouts):
    fake.answers["/api/v1/pods"] = drops(HEAD + b"\r\n")
    assert re.search(IN_TIME, sentence(lambda: list(connect().read("/api/v1/pods", {}, 1000)), 3))


def test_informational_responses_are_skipped(fake, connect):
    body = b'{"status": {"user": {"username": "prometheus"}}}'
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    head = f"HTTP/1.1 201 Created\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    fake.answers[TOKEN_REVIEWS] = Raw([early, 0.1, head + body])
    assert works(connect())


def test_requests_share_a_connection(fake, connect):
    api = connect()
    ports = set()
    for _ in range(3):
        assert works(api)
        ports.add(api._connection._tcp._socket.getsockname()[1])
    assert 1 == len(ports)


@pytest.mark.parametrize("answer", [Raw([60]), Raw([HEAD + b"\r\n{", 60])])
def test_the_timeouts_are_some_seconds(fake, connect, answer):
    fake.answers[TOKEN_REVIEWS] = answer
    start = time.monotonic()
    refused(connect(), seconds=6)
    assert time.monotonic() - start > 2


@pytest.mark.parametrize("status", [200, 500, 401])
def test_a_compressed_response_is_not_decompressed(fake, connect, tmp_path, status):
    (tmp_path / "token").write_text("own-token", encoding="utf-8")
    api = connect({"tokenFile": str(tmp_path / "token")})
    bomb = gzip.compress(gzip.compress(bytes(100_000_000)))
    fake.answers[TOKEN_REVIEWS] = Answer(status, bomb, {"Content-Encoding": "gzip, gzip"})
    tracemalloc.start()
    refused(api)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["{url}/elsewhere", "https://localhost:{port}/", "/here", "http://[", "", "x:"])
def test_a_redirect_is_not_followed(fake, connect, status, target):
    location = target.format(url=fake.url, port=fake.port)
    fake.answers[TOKEN_REVIEWS] = Answer(status, b"", {"Location": location})
    assert f" with {status}" in refused(connect())
    assert [TOKEN_REVIEWS] == [one.path for one in fake.seen]


def test_a_server_that_is_not_there_is_a_sentence_until_it_is(fake, connect):
    api = connect()
    fake.stop()
    assert f"{fake.url} did not answer: [Errno 111] Connection refused" in refused(api)
    fake.start()
    assert works(api)


def test_a_name_that_cannot_be_resolved_is_a_sentence_until_it_can(fake, connect, monkeypatch):
    api = connect(server=f"https://localhost:{fake.port}")

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        assert "Temporary failure in name resolution" in refused(api)
    assert works(api)


def test_a_server_that_restarts_between_two_requests_is_asked_again_at_once(fake, connect):
    api = connect()
    for _ in range(3):
        assert works(api)
        fake.stop()
        fake.start()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda authority: authority.issue("expired", *LOCAL, days=(-2, -1)), "it has expired"),
        (lambda authority: authority.issue("elsewhere", "DNS:other"), "it is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_does_not_fit_is_a_sentence_until_it_does(fake, connect, authority, make, said):
    good, api = fake.pair, connect()
    fake.stop()
    fake.start(make(authority))
    assert said in refused(api)
    assert [] == fake.seen
    fake.stop()
    fake.start(good)
    assert works(api)


def test_the_ca_is_read_again_after_an_unknown_certificate(fake, connect, authority, tmp_path):
    trusted, other = tmp_path / "ca.crt", Authority(tmp_path, "other")
    shutil.copy(authority.ca, trusted)
    api = connect(**{"certificate-authority": str(trusted)})
    assert works(api)
    fake.stop()
    fake.start(other.issue("renewed", *LOCAL))
    for _ in range(2):
        assert "was refused: it is signed by an unknown authority" in refused(api)
    shutil.copy(other.ca, trusted)
    assert works(api)


def test_a_server_that_does_not_speak_tls_or_does_not_speak_at_all_is_a_sentence(connect, short_timeouts):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = connect(server=f"https://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in refused(api, seconds=5)
        client, _ = silent.accept()
        client.close()
        silent.close()
        assert "did not answer" in refused(api)


def test_a_token_that_is_refused_is_not_sent_again(fake, connect, tmp_path):
    (tmp_path / "token").write_text("own-token", encoding="utf-8")
    by_file, by_value = connect({"tokenFile": str(tmp_path / "token")}), connect()
    fake.own = "another"
    assert "own credentials (401): Unauthorized" in refused(by_file)
    refused(by_value)
    assert 2 == len(fake.seen)
    (tmp_path / "token").write_text("another", encoding="utf-8")
    assert works(by_file)


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"", b"\xff\xfe", b"\xc3\xa4", b"own-token\nown-token", b"own-token\0own-token"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_token_file_that_is_no_token_any_more_is_a_sentence_until_it_is(fake, connect, tmp_path, content, known):
    file = tmp_path / "token"
    file.write_text("own-token", encoding="utf-8")
    api = connect({"tokenFile": str(file)})
    if known:
        assert works(api)
        fake.own = "renewed"
    file.unlink() if content is None else file.write_bytes(content)
    for _ in range(2):
        refused(api)
    file.write_text(fake.own, encoding="utf-8")
    assert works(api)


@pytest.mark.parametrize("kind", ["token", "certificate"])
def test_credentials_that_are_renewed_in_a_kubeconfig_are_taken_after_a_401(fake, connect, tmp_path, authority, kind):
    def write(name):
        pem, key = authority.issue(name)
        certificate = {"client-certificate": str(pem), "client-key": str(key)}
        return fake.kubeconfig(tmp_path / "config", {"token": name} if kind == "token" else certificate)

    def known(request):
        right = request.subject in (None, "renewed")
        return Answer(201, {"status": {"user": {"username": "prometheus"}}}) if right else refusal(401, "expired")

    fake.own, fake.answers[TOKEN_REVIEWS] = "renewed", known
    api = connect(path=write("expired"))
    assert "own credentials (401)" in refused(api)
    write("renewed")
    assert works(api)


@pytest.mark.parametrize("host", ["", "[::1]:1", "127.0.0.1:99999999", "a..b", "a" * 64])
@pytest.mark.parametrize("address", ["https://{}", "https://me:own-token@{}", "https://{}/?token=own-token"])
def test_an_address_that_leads_nowhere_is_a_sentence_without_secrets(connect, address, host):
    refused(connect(server=address.format(host)))
