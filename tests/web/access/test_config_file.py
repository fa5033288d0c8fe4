"""The web configuration as text: what it means, and one sentence with its line for what cannot be served."""

import re
import ssl
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.access.certificates import TlsSettings
from exporter.web.access.config import RateLimit, WebConfig, WebConfigError
from exporter.web.access.config_file import parse_web_config
from exporter.web.access.passwords import Passwords

FOLDER = Path("/etc/exporter")
HASH = "$2y$10$" + "a" * 21 + "e" + "a" * 31
PAIR = "cert_file: c.pem, key_file: k.pem"
CA = "client_ca_file: ca.pem"


def parsed(text):
    return parse_web_config(text, FOLDER)


def tls(fields):
    return parsed(f"tls_server_config: {{{PAIR}, {fields}}}").tls


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "~", "tls_server_config:\nbasic_auth_users:\n", "rate_limit: {}"]
)
def test_a_file_without_demands_makes_none(text):
    assert WebConfig() == parsed(text)


def test_paths_begin_at_the_folder_of_the_file():
    expected = TlsSettings(FOLDER / "c.pem", Path("/run/k.pem"))
    assert expected == parsed("tls_server_config: {cert_file: c.pem, key_file: /run/k.pem}").tls


def test_pem_can_stand_in_the_file_itself():
    text = "tls_server_config:\n  cert: |\n    PEM\n    of two lines\n  key: KEY\n"
    assert TlsSettings("PEM\nof two lines\n", "KEY") == parsed(text).tls


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ("", "min_version", ssl.TLSVersion.TLSv1_2),
        ("", "max_version", ssl.TLSVersion.TLSv1_3),
        ("", "client_certificate", ssl.CERT_NONE),
        ("", "allowed_sans", None),
        ("", "server_order", True),
        ("", "ciphers", ()),
        ("client_auth_type: NoClientCert", "client_certificate", ssl.CERT_NONE),
        (f"client_auth_type: VerifyClientCertIfGiven, {CA}", "client_certificate", ssl.CERT_OPTIONAL),
        (f"client_auth_type: RequireAndVerifyClientCert, {CA}", "client_certificate", ssl.CERT_REQUIRED),
        (f"client_auth_type: RequireAndVerifyClientCert, {CA}", "client_ca", FOLDER / "ca.pem"),
        (f"client_auth_type: RequireAndVerifyClientCert, {CA}, client_allowed_sans: []", "allowed_sans", frozenset()),
        (
            f"client_auth_type: RequireAndVerifyClientCert, {CA}, client_allowed_sans: [a, 10.0.0.1]",
            "allowed_sans",
            frozenset({"a", "10.0.0.1"}),
        ),
        ("min_version: TLS13", "min_version", ssl.TLSVersion.TLSv1_3),
        ("max_version: TLS12", "max_version", ssl.TLSVersion.TLSv1_2),
        ("prefer_server_cipher_suites: false", "server_order", False),
        ("curve_preferences: [X25519]", "curve", "X25519"),
        ("curve_preferences: [CurveP256]", "curve", "prime256v1"),
        ("curve_preferences: []", "curve", None),
        (
            "cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]",
            "ciphers",
            ("ECDHE-RSA-CHACHA20-POLY1305",),
        ),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", "min_version", ssl.TLSVersion.TLSv1_3),
    ],
)
def test_a_field_of_tls_means(fields, attribute, value):
    assert value == getattr(tls(fields), attribute)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("min_version: TLS11", r"min_version is 'TLS11'; supported are TLS12, TLS13$"),
        ("max_version: TLS10", r"max_version is 'TLS10'"),
        ("min_version: TLS13, max_version: TLS12", r"min_version is above max_version$"),
        ("client_auth_type: RequestClientCert", r"would take any certificate without verifying it"),
        ("client_auth_type: RequireAnyClientCert", r"would take any certificate without verifying it"),
        ("client_auth_type: Sometimes", r"client_auth_type is 'Sometimes'; supported are NoClientCert, Ver"),
        ("client_auth_type: RequireAndVerifyClientCert", r"client_auth_type needs client_ca_file"),
        ("client_auth_type: VerifyClientCertIfGiven", r"client_auth_type needs client_ca_file"),
        (CA, r"client_ca_file needs client_auth_type$"),
        ("client_ca: PEM", r"client_ca needs client_auth_type$"),
        ("client_allowed_sans: [a]", r"client_allowed_sans needs client_auth_type RequireAndVerifyClientCert$"),
        ("client_allowed_sans: a", r"client_allowed_sans must be a list of strings$"),
        ("client_allowed_sans: [[a]]", r"client_allowed_sans must be a list of strings$"),
        (
            "cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]",
            r"cipher_suites has 'TLS_RSA_WITH_RC4_128_SHA'; supported are TLS_EC",
        ),
        (
            "cipher_suites: [TLS_AES_128_GCM_SHA256], max_version: TLS12",
            r"no suite of TLS 1.2 and max_version is TLS12$",
        ),
        ("curve_preferences: [X25519, CurveP256]", r"has several curves"),
        ("curve_preferences: [X448]", r"has 'X448'; supported are CurveP256"),
        ("prefer_server_cipher_suites: maybe", r"must be true or false$"),
        ("prefer_server_cipher_suites: 'true'", r"must be true or false$"),
        ("cert: PEM", r"cert and cert_file are mutually exclusive$"),
        ("cert_file: other.pem", r"cert_file is defined twice$"),
        ("certfile: c.pem", r"certfile is not a known field$"),
        ("min_version: [TLS12]", r"min_version must be a string$"),
    ],
)
def test_what_tls_cannot_be_served_as_it_is_meant_is_refused(fields, sentence):
    with pytest.raises(WebConfigError, match=r"^line 1: tls_server_config.*" + sentence):
        tls(fields)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        *[
            ("cert_file: c.pem", "key"),
            ("key_file: k.pem", "cert"),
            ("min_version: TLS13", "cert"),
            ("cert: ''", "cert"),
        ],
        *[("cert_file: , key_file: ", "cert"), ("cert_file: ''", "cert"), ("cert_file: c.pem, key_file: ~", "key")],
    ],
)
def test_tls_without_its_pair_is_refused_and_never_served_in_the_clear(fields, missing):
    with pytest.raises(WebConfigError, match=f"requires {missing}_file$"):
        parsed(f"tls_server_config: {{{fields}}}")


def test_headers_are_those_of_the_schema_and_a_blank_one_is_not_sent():
    text = (
        "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: sameorigin\n"
        "    Content-Security-Policy: ' default-src none '\n    Strict-Transport-Security: ''\n    X-XSS-Protection:\n"
    )
    assert (("X-Frame-Options", "sameorigin"), ("Content-Security-Policy", "default-src none")) == parsed(text).headers


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("http2: true", r"http_server_config.http2 is true, but HTTP/2 is not supported"),
        ("headers: {Server: me}", r"headers.Server cannot be set; these can: Content-Security-Policy"),
        ("headers: {x-frame-options: deny}", r"headers.x-frame-options cannot be set"),
        ("headers: {X-Frame-Options: allow}", r"X-Frame-Options is 'allow'; it can be deny or sameorigin$"),
        ("headers: {X-Content-Type-Options: sniff}", r"it can be nosniff$"),
        (r'headers: {X-XSS-Protection: "a\r\nSet-Cookie: b"}', r"must be printable ASCII on one line$"),
        ('headers: {Content-Security-Policy: "é"}', r"must be printable ASCII on one line$"),
        ("headers: []", r"headers must be a mapping"),
    ],
)
def test_what_http_cannot_be_served_is_refused(fields, sentence):
    with pytest.raises(WebConfigError, match=r"^line 1: " + ".*" + sentence):
        parsed(f"http_server_config: {{{fields}}}")


def test_users_are_hashes_by_name_and_a_name_is_text_in_any_form():
    assert {"bob": HASH, "0123": HASH, "on": HASH} == dict(
        parsed(f"basic_auth_users: {{bob: {HASH}, 0123: {HASH}, on: {HASH}}}").users
    )


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("bob: secret", r"basic_auth_users.bob must be a bcrypt hash, as `htpasswd"),
        ("bob:", r"basic_auth_users.bob must be a bcrypt hash"),
        (f"bob: {HASH[:-1]}", r"must be a bcrypt hash"),
        (f"bob: {HASH.replace('2y', '2x')}", r"must be a bcrypt hash"),
        (f"bob: {HASH.replace('10', '32')}", r"must be a bcrypt hash"),
        (f"bob: {HASH.replace('10', '03')}", r"must be a bcrypt hash"),
        (f"'a:b': {HASH}", r"a:b contains a colon"),
        (f"bob: {HASH}, bob: {HASH}", r"basic_auth_users.bob is defined twice$"),
        (f"[bob]: {HASH}", r"a name must be a string$"),
    ],
)
def test_what_is_no_user_is_refused_and_no_secret_is_said(user, sentence):
    with pytest.raises(WebConfigError, match=sentence) as caught:
        parsed(f"basic_auth_users: {{{user}}}")
    assert "secret" not in str(caught.value)
    assert HASH[7:] not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ("interval: 1s, burst: 2", RateLimit(1.0, 2)),
        ("interval: 1m30.5s, burst: 1", RateLimit(90.5, 1)),
        ("interval: 250ms, burst: 40", RateLimit(0.25, 40)),
        ("interval: .5h, burst: 1", RateLimit(1800.0, 1)),
        ("interval: 0, burst: 5", None),
        ("interval: 0s, burst: 0", None),
        ("burst: 5", None),
        ("interval: 9200000000s, burst: 1", RateLimit(9.2e9, 1)),
    ],
)
def test_a_rate_limit_means(fields, limit):
    assert limit == parsed(f"rate_limit: {{{fields}}}").rate_limit


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("interval: 1, burst: 1", r"interval is '1'; it must be a duration with its unit"),
        ("interval: -1s, burst: 1", r"it must be a duration"),
        ("interval: 1s 2s, burst: 1", r"it must be a duration"),
        ("interval: 1d, burst: 1", r"it must be a duration"),
        (f"interval: {'9' * 400}s, burst: 1", r"interval is longer than 292 years"),
        (f"interval: {'9' * 300}h{'9' * 300}h, burst: 1", r"interval is longer than 292 years"),
        ("interval: 9300000000s, burst: 1", r"interval is longer than 292 years"),
        ("interval: 1s", r"needs a burst of at least 1"),
        ("interval: 1s, burst: 0", r"needs a burst of at least 1"),
        ("interval: 1s, burst: -3", r"needs a burst of at least 1"),
        ("interval: 1s, burst: 1.5", r"needs a burst of at least 1"),
        ("interval: 1s, burst: 1, per: client", r"rate_limit.per is not a known field"),
    ],
)
def test_what_is_no_rate_limit_is_refused(fields, sentence):
    with pytest.raises(WebConfigError, match=sentence):
        parsed(f"rate_limit: {{{fields}}}")


# Once: YAML spells halves of characters, and the first read of the file or the first password was a traceback.
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            r'tls_server_config: {cert_file: "\ud800", key_file: k}',
            r"^line 1: tls_server_config.cert_file must be a string$",
        ),
        (r'tls_server_config: {cert: "\udc00", key: k}', r"^line 1: tls_server_config.cert must be a string$"),
        (
            r'tls_server_config: {cert_file: "a\nb", key_file: k}',
            r"cert_file is 'a\\nb'; it must be the path of a file$",
        ),
        (
            r'tls_server_config: {cert_file: "a\0b", key_file: k}',
            r"cert_file is 'a\\x00b'; it must be the path of a file$",
        ),
        (rf'basic_auth_users: {{"\ud800": {HASH}}}', r"^line 1: a name must be a string$"),
    ],
)
def test_what_no_file_and_no_name_can_be_is_one_sentence(text, sentence):
    with pytest.raises(WebConfigError, match=sentence):
        parsed(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tls_server_confg: {}", r"^line 1: tls_server_confg is not a known field$"),
        ("\n\nunknown: {}", r"^line 3: unknown"),
        ("tls_server_confg:\n  cert: a\n", r"^line 1: tls_server_confg is not a known field"),
        (
            "\nbasic_auth_users:\n  bob:$2y$\n",
            r"^line 2: basic_auth_users must be a mapping .* a space after its colon$",
        ),
        ("rate_limit: 5", r"^line 1: rate_limit must be a mapping"),
        ("- a", r"^line 1: the file must be a mapping"),
        ("text", r"^line 1: the file must be a mapping"),
        ("a: [", r"^line 1: it is not YAML: "),
        ("a: b\n\tc: d", r"^line 2: it is not YAML: "),
        ("{}\n---\n{}", r"^line 2: it is not YAML: expected a single document"),
        ("a: \x00", r"^it is not YAML: unacceptable character"),
        ("[" * 5000, r"it is not YAML: "),
        ("<<: {rate_limit: {}}", r"^line 1: << is not a known field"),
    ],
)
def test_what_is_no_web_configuration_is_one_sentence(text, sentence):
    with pytest.raises(WebConfigError, match=sentence) as caught:
        parsed(text)
    assert "\n" not in str(caught.value)


ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@given(
    version=st.sampled_from("abxy"),
    cost=st.sampled_from(["04", "05", "4", "03", "32", "3a"]),
    tail=st.text(ALPHABET + "!", min_size=52, max_size=54) | st.text(ALPHABET, min_size=53, max_size=53),
    last=st.sampled_from(".Oeu"),
)
def test_a_hash_is_refused_or_can_be_checked(version, cost, tail, last):
    for hashed in (f"$2{version}${cost}${tail}", f"$2{version}${cost}${tail[:21]}{last}{tail[22:]}"):
        try:
            users = parsed(f"basic_auth_users: {{bob: '{hashed}'}}").users
        except WebConfigError:
            continue
        assert Passwords(users).check(b"bob", b"secret") is False


@pytest.mark.parametrize("place", [28, 59])
def test_a_hash_whose_password_can_never_be_right_is_refused(place):
    made = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    assert Passwords(parsed(f"basic_auth_users: {{bob: {made}}}").users).check(b"bob", b"secret")
    changed = made[:place] + ALPHABET[ALPHABET.index(made[place]) + 1] + made[place + 1 :]
    with pytest.raises(WebConfigError, match="bob must be a bcrypt hash"):
        parsed(f"basic_auth_users: {{bob: {changed}}}")


WORDS = "tls_server_config cert_file client_auth_type basic_auth_users rate_limit interval burst headers &a *a !!x 1s 0"
SNIPPETS = st.sampled_from([*WORDS.split(), ": ", "\n  ", "\n", "{", "}", "[", "]", ",", "'"])


@given(st.lists(st.one_of(SNIPPETS, st.text(max_size=6))).map("".join))
def test_any_text_is_a_configuration_or_one_sentence(text):
    try:
        assert isinstance(parsed(text), WebConfig)
    except WebConfigError as error:
        assert re.fullmatch(r"[^\n]+", str(error))  # noqa: PT017  either is right
