"""Users and their passwords: what is right, what is remembered, and that unknown names take as long as known ones."""

import base64
import time

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.access.passwords import Passwords, parse_basic


def hashed(password, cost=4):
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


def basic(data):
    return "Basic " + base64.b64encode(data).decode()


BOB = hashed(b"secret")


@pytest.fixture
def passwords():
    return Passwords({"bob": BOB, "é": hashed(b"")})


@pytest.mark.parametrize(
    ("name", "password", "right"),
    [
        (b"bob", b"secret", True),
        (b"bob", b"Secret", False),
        (b"bob", b"", False),
        (b"bob", b"secret\0", False),
        (b"Bob", b"secret", False),
        (b"", b"secret", False),
        (b"eve", b"secret", False),
        ("é".encode(), b"", True),
        ("é".encode("latin-1"), b"", False),
    ],
)
def test_a_password_is_right_for_its_user_alone_and_remembered_when_it_was(passwords, name, password, right):
    assert not passwords.is_cached(name, password)
    assert right == passwords.check(name, password)
    assert right == passwords.is_cached(name, password)


def test_a_wrong_password_after_a_right_one_is_wrong(passwords):
    passwords.check(b"bob", b"secret")
    assert not passwords.is_cached(b"bob", b"wrong")
    assert not passwords.check(b"bob", b"wrong")
    assert passwords.is_cached(b"bob", b"secret")


@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
def test_every_kind_of_hash_that_tools_write_is_checked(kind):
    assert Passwords({"bob": BOB.replace("2b", kind)}).check(b"bob", b"secret")


def test_a_hash_that_apaches_htpasswd_wrote_is_checked():
    written = "$2y$05$ydGJHNNUVjlm2YocOeVZZO4P3Ez7IJd3jJwrLP1NFZPTUJqk.vdE."  # htpasswd -nbBC 5 bob opensesame
    assert [True, False] == [Passwords({"bob": written}).check(b"bob", word) for word in (b"opensesame", b"sesame")]


def test_bcrypt_reads_72_bytes_as_where_the_hash_was_made():
    long = Passwords({"bob": hashed(b"x" * 72)})
    assert [True, True, False] == [long.check(b"bob", b"x" * size) for size in (72, 80, 71)]


def test_a_name_that_does_not_exist_takes_as_long_as_one_that_does():
    slow = Passwords({"bob": hashed(b"secret", 8)})

    def seconds(name):
        start = time.process_time()
        assert not slow.check(name, b"wrong")
        return time.process_time() - start

    known, unknown = (min(seconds(name) for _ in range(5)) for name in (b"bob", b"eve"))
    assert 0.5 < unknown / known < 2


def test_nothing_that_is_remembered_can_be_read_back(passwords):
    passwords.check(b"bob", b"secret")
    assert b"secret" not in b"".join(
        value for one in vars(passwords).values() if isinstance(one, dict) for value in one.values()
    )


@given(st.binary(max_size=20).filter(lambda name: b":" not in name), st.binary(max_size=20))
def test_name_and_password_come_back_as_they_were_sent(name, password):
    assert (name, password) == parse_basic(basic(name + b":" + password))


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc"])
def test_the_scheme_is_known_in_any_case(scheme):
    assert (b"bob", b"a:b") == parse_basic(f"{scheme} {base64.b64encode(b'bob:a:b').decode()}")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Bearer abc",
        "Basic !!!!",
        "Basic Ym9i",
        "Basic Ym9i\u00e9",
        "Basic Ym9iOg",
        "Basic a, Basic b",
    ],
)
def test_what_is_no_name_and_password_is_none(header):
    assert parse_basic(header) is None
