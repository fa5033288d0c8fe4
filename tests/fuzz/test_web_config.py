"""Whatever a web configuration says, it is one sentence at the start or all of it can be served: no password, header
or certificate of it is an exception later.
"""

import asyncio
import json
import logging
import tempfile
from http import HTTPStatus
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.web.access.config import WebConfigError
from exporter.web.access.live_config import LiveConfig
from exporter.web.access.passwords import Passwords
from exporter.web.transport.connection import Connection
from exporter.web.transport.messages import Response
from exporter.web.transport.phases import Limits
from tests.fuzz.shapes import BROKEN, encoded
from tests.fuzz.test_http import Pieces
from tests.web.authority import Authority

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
OPEN = {
    "basic_auth_users": {"bob": HASH},
    "http_server_config": {"headers": {"X-Frame-Options": "deny", "X-Content-Type-Options": "nosniff"}},
    "rate_limit": {"interval": "1s", "burst": "5"},
}
GET = b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def folder():
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as made:
        pem, key = Authority(Path(made)).issue("server", "IP:127.0.0.1")
        yield Path(made), {"tls_server_config": {"cert_file": str(pem), "key_file": str(key)}}
    logging.disable(logging.NOTSET)


def loaded(folder, content):
    """The configuration in a file of this content, None if it cannot be served."""
    file = folder / "web.yml"
    file.write_bytes(content)
    sentence = "\n"
    try:
        return LiveConfig(file)
    except WebConfigError as error:
        sentence = str(error)
    assert sentence.startswith(f"the web configuration {file} cannot be served: ")
    assert sentence.isprintable()
    return None


@given(encoded(OPEN), st.binary(), st.binary())
def test_what_can_be_served_checks_any_password_and_sends_its_headers(folder, content, name, password):
    live = loaded(folder[0], content)
    if not live:
        return
    if live.config.users:
        passwords = Passwords(live.config.users)
        assert passwords.check(name, password) in (True, False)
        for user in live.config.users:
            assert passwords.check(user.encode(), password) == (
                password == b"secret" and HASH in live.config.users.values()
            )

    async def handle(_):
        return Response(HTTPStatus.OK, b"ok\n", headers=live.config.headers)

    client = Pieces([GET])
    asyncio.run(Connection(client, Limits()).serve(handle))
    assert client.heard.startswith(b"HTTP/1.1 200 ")
    assert all(name.encode() in client.heard for name, _ in live.config.headers)


@given(st.data())
def test_any_demand_of_tls_is_served_or_a_sentence(folder, data):
    live = loaded(folder[0], data.draw(encoded(folder[1]) | BROKEN))
    assert live is None or live.config.tls is None or live.tls is not None


def test_the_configurations_that_are_changed_there_can_be_served(folder):
    for one in (OPEN, folder[1]):
        assert loaded(folder[0], json.dumps(one).encode())
