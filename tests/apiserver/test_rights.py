"""What the chart's roles let the exporter do in a real cluster, and that they let it do nothing else."""

from contextlib import closing

import pytest

from exporter.node.api_server import ApiServer, ApiServerError
from exporter.node.pod_watch import list_pods
from tests.apiserver.cluster import pod

RULES = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
EVERYTHING = {"kubernetes": {"enabled": True, "authorization": True}}
PODS, REVIEWS = {"kubernetes": {"enabled": True}}, {"kubernetes": {"enabled": False, "authorization": True}}


@pytest.fixture(scope="module")
def shop(cluster):
    cluster.make_namespace("monitoring", "nobody")
    cluster.make_namespace("shop")
    cluster.create(pod("web", "shop", "node-1"))


@pytest.fixture
def installed(cluster, shop, tmp_path, monkeypatch):
    """Installs what the chart makes of values for the exporter's rights; a client with its token, as in its pod."""
    made, clients = [], []

    def install(values):
        objects, account = cluster.install_roles(values)
        made.extend(objects)
        return client(account)

    def client(account):
        for name, value in cluster.service_account(tmp_path / account, cluster.token(account, "monitoring")).items():
            monkeypatch.setenv(name, value)
        clients.append(ApiServer(service_account=tmp_path / account))
        return clients[-1]

    install.client = client
    yield install
    for each in clients:
        each.close()
    for each in made:
        about = each["metadata"]
        words = [each["kind"], about["name"], *([f"--namespace={about['namespace']}"] if "namespace" in about else [])]
        cluster.kubectl("delete", *words)


def rules_of(server, namespace="shop"):
    """What the user of this client may do: verbs, and resources or URLs, as the API server itself lists them."""
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    status = server.create(RULES, {**kind, "spec": {"namespace": namespace}})["status"]
    assert not status["incomplete"]
    found = set()
    for rule in (*status["resourceRules"], *status["nonResourceRules"]):
        where = rule.get("nonResourceURLs") or [
            f"{group}/{name}" for group in rule["apiGroups"] for name in rule["resources"]
        ]
        found |= {(verb, each, *rule.get("resourceNames", [])) for verb in rule["verbs"] for each in where}
    return found


_NAMES_PODS = {("list", "/pods"), ("watch", "/pods")}
_REVIEWS = {
    ("create", "authentication.k8s.io/tokenreviews"),
    ("create", "authorization.k8s.io/subjectaccessreviews"),
}


@pytest.mark.parametrize(
    ("values", "allowed"),
    [(EVERYTHING, _NAMES_PODS | _REVIEWS), (PODS, _NAMES_PODS), (REVIEWS, _REVIEWS)],
    ids=["both", "pods", "reviews"],
)
def test_the_role_allows_what_is_switched_on_and_nothing_more_than_every_account_may(installed, values, allowed):
    server = installed(values)
    assert allowed == rules_of(server) - rules_of(installed.client("nobody"))


def test_the_exporter_lists_and_watches_pods_of_all_namespaces(installed):
    server = installed(PODS)
    table, _ = list_pods(server, "node-1")
    assert [("shop", "web")] == [(each.namespace, each.pod) for each in table.values()]
    watch = {"watch": "true", "resourceVersion": "0", "timeoutSeconds": "1"}  # first what there is
    assert [b'{"type":"ADDED",'] == [line[:16] for line in server.lines("/api/v1/pods", watch, 1 << 20, 10)]


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/secrets", "/api/v1/configmaps", "/api/v1/nodes", "/api/v1/namespaces", "/api/v1/services"),
        *("/api/v1/namespaces/shop/pods/web", "/api/v1/namespaces/shop/pods/web/log", "/apis/apps/v1/daemonsets"),
        *("/api/v1/namespaces/monitoring/secrets", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/metrics"),
        *("/api/v1/nodes/node-1/proxy/pods", "/apis/discovery.k8s.io/v1/endpointslices", "/logs/"),
    ],
)
def test_the_exporter_may_read_nothing_else(installed, path):
    assert "forbidden" == refusal(lambda: list(installed(EVERYTHING).read(path, {}, 1 << 20)))


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/namespaces/shop/pods", "/api/v1/namespaces/shop/pods/web/exec?command=id", "/api/v1/namespaces"),
        *("/api/v1/namespaces/shop/pods/web/eviction", "/api/v1/namespaces/monitoring/serviceaccounts/nobody/token"),
        *("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "/apis/apps/v1/namespaces/shop/deployments"),
        "/apis/authorization.k8s.io/v1/namespaces/shop/localsubjectaccessreviews",
    ],
)
def test_the_exporter_may_create_nothing_else(installed, path):
    assert "forbidden" == refusal(lambda: installed(EVERYTHING).create(path, {}))


def test_without_pods_switched_on_they_are_refused(installed):
    assert "forbidden" == refusal(lambda: list_pods(installed(REVIEWS), "node-1"))


@pytest.mark.parametrize(("path", "what"), [(TOKENS, "create tokenreviews"), (ACCESS, "create subjectaccessreviews")])
def test_without_authorization_switched_on_reviews_are_refused(installed, path, what):
    server = installed(PODS)
    with pytest.raises(ApiServerError, match=f"does not let this exporter {what} \\(403\\)"):
        server.create(path, {})


def refusal(request):
    """The reason for which the API server refuses."""
    with pytest.raises(ApiServerError) as refused:
        request()
    return refused.value.reason


def test_a_client_of_a_pod_uses_the_next_token_of_its_folder(cluster, installed, tmp_path):
    server = installed(PODS)
    (file,) = tmp_path.glob("*/token")
    file.write_text(cluster.token("nobody", "monitoring"), encoding="ascii")
    with closing(server):
        assert "forbidden" == refusal(lambda: list_pods(server, "node-1"))
        file.write_text("none.of.these", encoding="ascii")
        assert "unauthorized" == refusal(lambda: list_pods(server, "node-1"))
