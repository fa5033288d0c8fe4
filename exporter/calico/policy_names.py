"""Policy names: the kind, namespace and name that the user gave, from what Felix calls the policy.

The same before and after an upgrade of Calico. Prefixes are those of `libcalico-go/lib/names/policy.go` at v3.29 to
v3.31 and of `parseLegacyPolicyName` in `lib/backend/model/policy.go` at v3.32; OpenStack's is in networking-calico's
`policy.py`. From v3.32 on a comment has the kind; a ClusterNetworkPolicy and a security group still have a stand-in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_NETWORK_POLICY, _GLOBAL, _KUBERNETES = "NetworkPolicy", "GlobalNetworkPolicy", "KubernetesNetworkPolicy"
_CLUSTER = "ClusterNetworkPolicy"
_RENAMED = {"KubernetesClusterNetworkPolicy": _CLUSTER}
_DEFAULT_TIER = "default"


@dataclass(frozen=True, slots=True)
class _StandIn:
    """A kind that Felix turns into a policy of its own, whose name has the prefix and the tier before the user's."""

    kind: str
    felix_kind: str
    tiers: tuple[str, ...]


_STAND_INS: Mapping[str, _StandIn] = {
    "knp.": _StandIn(_KUBERNETES, _KUBERNETES, (_DEFAULT_TIER,)),
    "ossg.": _StandIn("OpenStackSecurityGroup", _NETWORK_POLICY, (_DEFAULT_TIER,)),
    "kanp.": _StandIn("AdminNetworkPolicy", _GLOBAL, ("adminnetworkpolicy",)),
    "kbanp.": _StandIn("BaselineAdminNetworkPolicy", _GLOBAL, ("baselineadminnetworkpolicy",)),
    "kcnp.": _StandIn(_CLUSTER, _GLOBAL, ("kube-admin", "kube-baseline")),
}
_WITHOUT_TIER = ("kcnp.",)  # it may have been left out
_NAMESPACED = (_NETWORK_POLICY, _KUBERNETES)


def user_policy(kind: str, full_name: str, tier: str) -> tuple[str, str, str]:
    """Kind, namespace and name of the user's object; `kind` is the comment's, empty where it has none."""
    namespace, slash, name = full_name.rpartition("/")
    prefix = next((one for one in _STAND_INS if name.startswith(one)), "")
    stand_in = _STAND_INS.get(prefix)
    if (
        stand_in
        and kind in ("", stand_in.kind, stand_in.felix_kind)
        and bool(slash) == (stand_in.felix_kind in _NAMESPACED)
        and tier in stand_in.tiers
        and name.startswith((f"{prefix}{tier}.", *_WITHOUT_TIER))
    ):
        return stand_in.kind, namespace, name.removeprefix(prefix).removeprefix(f"{tier}.")
    kind = _RENAMED.get(kind, kind) or (_NETWORK_POLICY if slash else _GLOBAL)
    if tier == _DEFAULT_TIER and kind in (_NETWORK_POLICY, _GLOBAL):
        # v3.31 and older prefix the name with the tier, and policies created there keep the prefix in v3.32.
        name = name.removeprefix("default.")
    return kind, namespace, name
