"""Whatever a kubeconfig says, it names an API server that can be asked or is one sentence; a token is in none."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node.api_server import ApiServer, ApiServerError
from tests.fuzz.shapes import encoded

TOKEN = "own-token-71"
WHOLE = {
    "apiVersion": "v1", "kind": "Config", "current-context": "test",
    "contexts": [{"name": "test", "context": {"cluster": "fake", "user": "me", "namespace": "x"}}],
    "clusters": [{"name": "fake", "cluster": {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}}],
    "users": [{"name": "me", "user": {"token": TOKEN}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "config"


@given(encoded(WHOLE) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_server_or_one_sentence_without_its_token(file, content):
    file.write_bytes(content)
    sentence = ""
    try:
        ApiServer(file).close()
    except ApiServerError as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert TOKEN not in sentence


def test_the_file_that_is_changed_there_can_be_used_itself(file):
    file.write_text(json.dumps(WHOLE), encoding="utf-8")
    ApiServer(file).close()
