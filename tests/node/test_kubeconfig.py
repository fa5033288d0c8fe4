"""Invalid kubeconfig files: each gives one error message that names the file."""

import gzip
import json
import os
import re
import socket

import pytest

from exporter.node.api_server import ApiServer, ApiServerError

WHOLE = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "test",
    "contexts": [{"name": "test", "context": {"cluster": "fake", "user": "me"}}],
    "clusters": [{"name": "fake", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "me", "user": {"token": "own-token"}}],
}


def with_cluster(more):
    return {"clusters": [{"name": "fake", "cluster": {"server": "https://127.0.0.1:1", **more}}]}


def refused(file):
    """The error for this file."""
    with pytest.raises(ApiServerError) as caught:
        ApiServer(file)
    text = str(caught.value)
    why = text.removeprefix(f"the kubeconfig {file} cannot be used: ")
    assert text != why
    assert text.isprintable()
    assert "own-token" not in text
    return why


def test_the_whole_file_can_be_used(tmp_path):
    (tmp_path / "config").write_text(json.dumps(WHOLE), encoding="utf-8")
    ApiServer(tmp_path / "config").close()


SHAPE = "it does not have the shape of a kubeconfig"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        *((content, SHAPE) for content in (b"", b"[]", b"hello", b"5", b"[" * 2000)),
        *((content, SHAPE) for content in (b"\xff\x00\xfe", gzip.compress(b"apiVersion: v1", mtime=0))),
        (b"clusters: [}", "line 1"),
        (b"clusters:\n\tcontexts:", "line 2"),
        (b"a: b\nb: !!python/object/apply:os.abort []", "line 2"),
        (b"users: [{user: {token: own-token: }}]", "line 1"),
        (b'users: [{user: {token: "own-token}}]', "line 1"),
        (b"{}", "'clusters'"),
        ({"current-context": None}, "it has no current-context"),
        ({"current-context": "other"}, "Context 'other' not found"),
        ({"contexts": []}, "Context 'test' not found"),
        ({"contexts": [{"name": "test", "context": {"cluster": "fake"}}]}, "context test names no user"),
        ({"contexts": [{"name": "test", "context": {"user": "me"}}]}, "context test names no cluster"),
        ({"clusters": []}, "'fake'"),
        ({"clusters": None}, SHAPE),
        ({"clusters": [{"name": "fake", "cluster": {"server": 5}}]}, "the server of its cluster is no text"),
        ({"clusters": [{"name": "fake", "cluster": {"server": "https://[::1"}}]}, ""),
        (with_cluster({"proxy-url": "http://127.0.0.1:1"}), "a proxy-url, which this program cannot heed"),
        (with_cluster({"tls-server-name": "api"}), "a tls-server-name, which this program cannot heed"),
        ({"users": []}, "'me'"),
        ({"users": None}, SHAPE),
        ({"users": [{"name": "me", "user": {"auth-provider": {"name": "gcp"}}}]}, "auth-provider not supported"),
        ({"users": [{"name": "me", "user": {"client-certificate": "me.pem"}}]}, ""),
        ({"users": [{"name": "me", "user": {"token": ""}}]}, "token is empty"),
    ],
)  # fmt: skip
def test_a_kubeconfig_that_cannot_be_used_is_a_sentence_that_names_it(tmp_path, content, said):
    file = tmp_path / "config"
    if isinstance(content, dict):
        file.write_text(json.dumps({**WHOLE, **content}), encoding="utf-8")
    elif content is not None:
        file.write_bytes(content)
    why = refused(file)
    assert said in why
    assert not re.search(r"^'\w+'$|NoneType|has no attribute", why)


@pytest.mark.parametrize("kind", ["folder", "socket", "pipe"])
def test_a_kubeconfig_that_is_no_file_is_a_sentence(tmp_path, kind):
    file = tmp_path / "config"
    with socket.socket(socket.AF_UNIX) as own:
        {"folder": file.mkdir, "socket": lambda: own.bind(str(file)), "pipe": lambda: os.mkfifo(file)}[kind]()
        assert "not found" in refused(file)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_an_authority_that_is_none_is_a_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}  # beside the kubeconfig
    (tmp_path / "config").write_text(json.dumps({**WHOLE, "clusters": [{"name": "fake", "cluster": cluster}]}))
    assert (content is None) == ("ca.crt" in refused(tmp_path / "config"))


@pytest.mark.parametrize("gone", ["me.crt", "me.key"])
def test_a_missing_client_certificate_is_named(tmp_path, gone):
    for name in {"me.crt", "me.key"} - {gone}:
        (tmp_path / name).touch()
    user = {"client-certificate": "me.crt", "client-key": "me.key"}
    (tmp_path / "config").write_text(json.dumps({**WHOLE, "users": [{"name": "me", "user": user}]}))
    assert f"No such file or directory: '{tmp_path}/{gone}'" in refused(tmp_path / "config")


def test_a_token_file_is_relative_to_the_kubeconfig_and_named_when_it_is_missing(tmp_path):
    user = {"tokenFile": "own-token"}
    (tmp_path / "config").write_text(json.dumps({**WHOLE, "users": [{"name": "me", "user": user}]}))
    with pytest.raises(ApiServerError, match=f"the token {tmp_path}/own-token cannot be read: No such file"):
        ApiServer(tmp_path / "config").create("/api", {})


def test_a_kubeconfig_starts_no_program(tmp_path):
    program = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "touch"}
    user = {"exec": {**program, "args": [str(tmp_path / "started")]}}
    (tmp_path / "config").write_text(json.dumps({**WHOLE, "users": [{"name": "me", "user": user}]}))
    with pytest.raises(ApiServerError):
        ApiServer(tmp_path / "config").create("/api", {})
    assert not (tmp_path / "started").exists()
