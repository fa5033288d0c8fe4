"""Bearer tokens of scrapers, reviewed by a real API server for the exporter with the chart's rights."""

import asyncio
import base64
import json
from http import HTTPStatus

import pytest

from exporter.node.api_server import ApiServer, ApiServerError
from exporter.web.access.auth_queue import AuthQueue
from exporter.web.access.reviews import Reviews
from tests.apiserver.cluster import wait_until

OK, UNAUTHORIZED, FORBIDDEN = HTTPStatus.OK, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN
ACCOUNTS = ("prometheus", "nobody", "root", "leaving")


@pytest.fixture(scope="module")
def bound(cluster):
    """Service accounts: `prometheus` may read the metrics by the chart's role, `root` may do everything."""
    cluster.make_namespace("monitoring", *ACCOUNTS)
    objects, account = cluster.install_roles({"kubernetes": {"authorization": True}})
    (reader,) = [each for each in objects if each["metadata"]["name"].endswith("-reader")]
    for role, name in ((reader["metadata"]["name"], "prometheus"), ("cluster-admin", "root")):
        words = (f"--clusterrole={role}", f"--serviceaccount=monitoring:{name}")
        cluster.kubectl("create", "clusterrolebinding", name, *words)
    return account


@pytest.fixture
def api(cluster, bound, tmp_path, monkeypatch):
    """The exporter's own client, with its own account's token."""
    for name, value in cluster.service_account(tmp_path / "own", cluster.token(bound, "monitoring")).items():
        monkeypatch.setenv(name, value)
    client = ApiServer(service_account=tmp_path / "own")
    yield client
    client.close()


def verdict(api, token, path="/metrics"):
    return asyncio.run(Reviews(api, AuthQueue()).review(token, path, "192.0.2.1"))


@pytest.mark.parametrize(
    ("account", "path", "expected"),
    [
        *(("prometheus", "/metrics", OK), ("prometheus", "/", FORBIDDEN), ("prometheus", "/metrics/x", FORBIDDEN)),
        *(("nobody", "/metrics", FORBIDDEN), ("root", "/metrics", OK), ("root", "/", OK)),
    ],
)
def test_a_token_of_the_cluster_is_let_in_by_its_roles(cluster, api, account, path, expected):
    assert expected == verdict(api, cluster.token(account, "monitoring"), path)


@pytest.mark.parametrize("token", ["x", "not.a.token", "é", "a" * 9000, "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token_of_the_cluster_is_unauthorized(api, token):
    assert UNAUTHORIZED == verdict(api, token)


def test_a_token_with_another_signature_or_user_is_unauthorized(cluster, api):
    head, claims, signature = cluster.token("nobody", "monitoring").split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=="))
    content["sub"] = "system:serviceaccount:monitoring:root"
    forged = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    assert UNAUTHORIZED == verdict(api, f"{head}.{forged}.{signature}")
    assert UNAUTHORIZED == verdict(api, f"{head}.{claims}.{signature[::-1]}")


def test_a_token_for_another_audience_is_unauthorized(cluster, api):
    assert UNAUTHORIZED == verdict(api, cluster.token("prometheus", "monitoring", "--audience=vault"))


def test_a_token_ends_with_its_account(cluster, api):
    token = cluster.token("leaving", "monitoring")
    assert FORBIDDEN == verdict(api, token)
    cluster.kubectl("delete", "serviceaccount", "leaving", "--namespace=monitoring")
    wait_until(lambda: UNAUTHORIZED == verdict(api, token))  # the API server keeps what it knows for ten seconds


def test_a_token_from_a_file_of_users_is_let_in_by_its_group(cluster, api):
    assert OK == verdict(api, cluster.admin_token)


def test_without_rights_to_review_nobody_is_let_in(cluster, bound, tmp_path, monkeypatch):
    for name, value in cluster.service_account(tmp_path / "own", cluster.token("nobody", "monitoring")).items():
        monkeypatch.setenv(name, value)
    client = ApiServer(service_account=tmp_path / "own")
    try:
        with pytest.raises(ApiServerError, match=r"does not let this exporter create tokenreviews \(403\)"):
            verdict(client, cluster.token("root", "monitoring"))
    finally:
        client.close()
