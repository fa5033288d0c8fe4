"""Access control: health for everybody, the rest for those who may, how often, and the headers of all responses."""

import base64
import time

import bcrypt
import pytest

USERS = "basic_auth_users: {{bob: {}}}\n".format(bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode())
BOB = {"Authorization": "Basic " + base64.b64encode(b"bob:secret").decode()}
EVE = {"Authorization": "Basic " + base64.b64encode(b"bob:guess").decode()}
HEADERS = (
    "http_server_config: {headers: {X-Frame-Options: sameorigin, Content-Security-Policy: \"default-src 'self'\", "
    "X-Content-Type-Options: nosniff, Strict-Transport-Security: max-age=60, X-XSS-Protection: 1; mode=block}}\n"
)


@pytest.fixture
def behind(tmp_path, server):
    """Starts a server behind a web configuration, whose file is `config`."""

    def start(text, start=server, **options):
        config = tmp_path / "web.yml"
        config.write_text(text, encoding="utf-8")
        running = start(web_config=str(config), **options)
        running.config = config
        return running

    return start


def rejected(running, reason):
    return running.ask(headers=BOB).value(f'calico_bpf_exporter_scrapes_rejected_total{{reason="{reason}"}}')


def test_without_a_configuration_nobody_is_asked(server):
    assert 200 == server().ask().status


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing", "/healthz/", "/healthz/x", "//healthz", "/HEALTHZ"])
def test_only_a_user_sees_anything_at_all(behind, path):
    running = behind(USERS)
    answer = running.ask(path)
    assert (401, 'Basic realm="calico-bpf-exporter"') == (answer.status, answer.headers["www-authenticate"])
    assert "authentication is required: the name and password of a user\n" == answer.text
    assert 401 == running.ask(path, headers=EVE).status
    assert running.ask(path, headers=BOB).status in (200, 404)


def test_a_refused_head_has_no_body_and_a_refused_method_tells_nothing(behind):
    running = behind(USERS)
    assert (401, b"") == (running.ask(method="HEAD").status, running.ask(method="HEAD").body)
    assert [401, 405] == [running.ask(method="POST", headers=headers).status for headers in ({}, BOB)]


BROKEN = {"real": False, "extra": [{"name": "broken", "error": "a bug"}]}  # never ready, and the log has a traceback


def test_health_is_open_to_all_and_tells_its_first_line_alone_where_authentication_is_on(behind, unchecked_server):
    running = behind(USERS, unchecked_server, **BROKEN)
    assert (200, "ok\n") == (running.ask("/healthz").status, running.ask("/healthz").text)
    assert (503, "not ready\n") == (running.ask("/readyz").status, running.ask("/readyz").text)
    assert "not ready\n" == running.ask("/readyz", headers=BOB).text


def test_without_users_readiness_says_why(behind, unchecked_server):
    assert "broken: unexpected error" in behind(HEADERS, unchecked_server, **BROKEN).ask("/readyz").text


def test_users_change_while_serving(behind, until):
    running = behind(USERS)
    assert 200 == running.ask(headers=BOB).status
    running.config.write_text(USERS.replace("bob", "eve"), encoding="utf-8")
    assert until(lambda: running.ask(headers=BOB).status == 401)
    eve = {"Authorization": "Basic " + base64.b64encode(b"eve:secret").decode()}
    assert 200 == running.ask(headers=eve).status


def test_a_password_that_changed_is_not_remembered(behind, until):
    running = behind(USERS)
    assert 200 == running.ask(headers=BOB).status
    other = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
    running.config.write_text(f"basic_auth_users: {{bob: {other}}}", encoding="utf-8")
    assert until(lambda: running.ask(headers=BOB).status == 401)


def test_refusals_are_counted_and_the_first_answer_has_every_reason(behind):
    running = behind(USERS)
    assert 0 == rejected(running, "unauthorized")
    running.ask()
    running.ask("/", headers=EVE)
    running.ask("/healthz")
    assert 2 == rejected(running, "unauthorized")
    assert [0] * 5 == [
        rejected(running, reason)
        for reason in ("forbidden", "auth_queue_full", "unavailable", "rate_limit", "tls_handshake")
    ]


@pytest.mark.parametrize("path", ["/metrics", "/", "/healthz", "/nothing"])
def test_all_responses_carry_the_configured_headers_once(behind, path):
    answer = behind(HEADERS).ask(path)
    for name, value in (
        ("X-Frame-Options", "sameorigin"),
        ("Content-Security-Policy", "default-src 'self'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Strict-Transport-Security", "max-age=60"),
        ("X-XSS-Protection", "1; mode=block"),
    ):
        assert value == answer.headers[name.lower()]
        assert 1 == answer.raw.lower().count(f"\r\n{name.lower()}:".encode())


def test_a_refusal_carries_them_too(behind):
    assert "sameorigin" == behind(USERS + HEADERS).ask().headers["x-frame-options"]


def test_the_burst_comes_in_and_the_rest_is_told_when_to_come_again(behind):
    running = behind("rate_limit: {interval: 30s, burst: 3}")
    assert [404, 404, 404, 429] == [running.ask("/nothing").status for _ in range(4)]
    answer = running.ask("/nothing")
    assert 25 < int(answer.headers["retry-after"]) <= 30
    assert "too many requests; try again\n" == answer.text
    assert 200 == running.ask("/healthz").status


def test_a_place_comes_back_with_each_interval(behind):
    running = behind("rate_limit: {interval: 400ms, burst: 1}")
    assert [404, 429] == [running.ask("/nothing").status, running.ask("/nothing").status]
    time.sleep(0.5)
    assert 404 == running.ask("/nothing").status


def test_who_has_no_credentials_uses_up_nothing_of_those_who_have(behind):
    running = behind(USERS + "rate_limit: {interval: 1h, burst: 1}")
    for _ in range(5):
        running.ask()
    assert [200, 429] == [running.ask(headers=BOB).status for _ in range(2)]


def test_users_cannot_be_dropped_while_serving(behind, until):
    running = behind(USERS)
    running.config.write_text("", encoding="utf-8")
    time.sleep(1.1)
    assert 401 == running.ask().status
    assert until(lambda: "basic_auth_users is weaker than at startup" in running.log())
