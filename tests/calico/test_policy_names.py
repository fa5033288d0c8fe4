import pytest

from exporter.calico.policy_names import user_policy

ADMIN, BASELINE, CLUSTER = "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"
GROUP, GLOBAL, OF_NAMESPACE = "OpenStackSecurityGroup", "GlobalNetworkPolicy", "NetworkPolicy"


@pytest.mark.parametrize("kind_in_comment", ["", GLOBAL])
@pytest.mark.parametrize(
    ("name", "tier", "kind", "users"),
    [
        ("kanp.adminnetworkpolicy.gate", "adminnetworkpolicy", ADMIN, "gate"),
        ("kanp.adminnetworkpolicy.a.b", "adminnetworkpolicy", ADMIN, "a.b"),
        ("kanp.adminnetworkpolicy.adminnetworkpolicy.x", "adminnetworkpolicy", ADMIN, "adminnetworkpolicy.x"),
        ("kbanp.baselineadminnetworkpolicy.default", "baselineadminnetworkpolicy", BASELINE, "default"),
        ("kcnp.kube-admin.gate", "kube-admin", CLUSTER, "gate"),
        ("kcnp.kube-baseline.gate", "kube-baseline", CLUSTER, "gate"),
        ("kcnp.gate", "kube-admin", CLUSTER, "gate"),
        # A tier of the user's own may have any of these names, and its policies' names begin with it.
        ("kanp.gate", "kanp", GLOBAL, "kanp.gate"),
        ("kanp.adminnetworkpolicy.gate", "kanp", GLOBAL, "kanp.adminnetworkpolicy.gate"),
        ("kcnp.gate", "kcnp", GLOBAL, "kcnp.gate"),
        ("kcnp.kube-admin.gate", "default", GLOBAL, "kcnp.kube-admin.gate"),
        ("adminnetworkpolicy.gate", "adminnetworkpolicy", GLOBAL, "adminnetworkpolicy.gate"),
        ("default.gate", "default", GLOBAL, "gate"),
        ("security.gate", "security", GLOBAL, "security.gate"),
    ],
)
def test_a_policy_of_the_cluster_has_its_users_kind_and_name(kind_in_comment, name, tier, kind, users):
    assert (kind, "", users) == user_policy(kind_in_comment, name, tier)


@pytest.mark.parametrize("kind_in_comment", ["", OF_NAMESPACE])
@pytest.mark.parametrize(
    ("name", "tier", "kind", "users"),
    [
        ("ossg.default.3f2a", "default", GROUP, "3f2a"),
        ("ossg.default.default.x", "default", GROUP, "default.x"),
        ("ossg.gate", "ossg", OF_NAMESPACE, "ossg.gate"),
        ("kanp.adminnetworkpolicy.gate", "adminnetworkpolicy", OF_NAMESPACE, "kanp.adminnetworkpolicy.gate"),
        ("default.gate", "default", OF_NAMESPACE, "gate"),
    ],
)
def test_a_policy_of_a_namespace_has_its_users_kind_and_name(kind_in_comment, name, tier, kind, users):
    assert (kind, "openstack", users) == user_policy(kind_in_comment, f"openstack/{name}", tier)


@pytest.mark.parametrize(
    ("before", "after", "tier"),
    [
        (("", "ns/knp.default.web"), ("KubernetesNetworkPolicy", "ns/web"), "default"),
        (("", "ns/default.web"), (OF_NAMESPACE, "ns/web"), "default"),
        (("", "default.web"), (GLOBAL, "default.web"), "default"),
        (("", "ns/ossg.default.1"), (OF_NAMESPACE, "ns/ossg.default.1"), "default"),
        (("", "kcnp.kube-admin.web"), ("KubernetesClusterNetworkPolicy", "web"), "kube-admin"),
    ],
)
def test_names_are_the_same_before_and_after_an_upgrade(before, after, tier):
    assert user_policy(*before, tier) == user_policy(*after, tier)
