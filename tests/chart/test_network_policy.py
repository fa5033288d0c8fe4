"""The policy that closes the port is the one that was tried on nodes with Calico's eBPF dataplane.

On v3.32.1 and v3.33, with the host endpoint that Calico creates: without `preDNAT` and `applyOnForward`, every pod of
the same node reached the port; with both, only the selected pod and the node itself did. `defaultEndpointToHostAction`
instead made no difference, and `Drop` closed the port to the selected pod too.
"""

import pytest
import yaml

from tests.chart.helm import helm, one, render
from tests.kernel.conftest import give_up

TRIED = yaml.safe_load("""
tier: default
order: 100
selector: projectcalico.org/created-by == 'calico-kube-controllers'
types: [Ingress]
preDNAT: true
applyOnForward: true
ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app.kubernetes.io/name == 'prometheus', namespaceSelector: all()}
    destination: {ports: [10042]}
  - {action: Deny, protocol: TCP, destination: {ports: [10042]}}
  - action: Pass
""")
ENABLED = {"networkPolicy": {"enabled": True}}
API_SERVER, STORED = "projectcalico.org/v3", "crd.projectcalico.org/v1"


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode:
        give_up("helm is not here: `make setup` brings it")


def test_the_rendered_policy_is_the_one_that_closed_the_port_to_pods_of_the_same_node():
    assert TRIED == one(render(ENABLED), "GlobalNetworkPolicy")["spec"]


@pytest.mark.parametrize(
    ("served", "rendered"),
    [((), API_SERVER), ((API_SERVER,), API_SERVER), ((STORED,), STORED), ((API_SERVER, STORED), API_SERVER)],
)
def test_the_policy_is_of_the_api_that_the_cluster_has(served, rendered):
    words = [word for version in served for word in ("--api-versions", f"{version}/GlobalNetworkPolicy")]
    policy = one(render(ENABLED, *words), "GlobalNetworkPolicy")
    assert (rendered, "default.test-calico-bpf-exporter") == (policy["apiVersion"], policy["metadata"]["name"])
    assert TRIED == policy["spec"]
