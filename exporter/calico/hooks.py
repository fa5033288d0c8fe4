"""Hooks and directions, which must not be confused.

A hook is where Calico's program is attached, seen from the host: the second u32 of a counter key
(felix/bpf-gpl/counters.h). A direction is seen from the endpoint, pod or node: what leaves a pod enters the host, so
tc ingress of a workload interface is its outbound traffic; for a host interface, ingress is inbound.
"""

TC_INGRESS, TC_EGRESS, XDP = 0, 1, 2

HOOKS = (TC_INGRESS, TC_EGRESS, XDP)
TC_HOOKS = (TC_INGRESS, TC_EGRESS)
_NAMES = ("tc_ingress", "tc_egress", "xdp")


def hook_name(hook: int) -> str:
    """The `hook` label of the number in a counter key; one that no release uses shows as `hook:<n>`."""
    return _NAMES[hook] if hook < len(_NAMES) else f"hook:{hook}"


def direction(hook: int, *, workload: bool) -> str:
    """`inbound` or `outbound` from the endpoint's point of view; XDP is always inbound.

    Empty for a hook that no release uses.
    """
    if hook == XDP:
        return "inbound"
    if hook not in TC_HOOKS:
        return ""
    return "outbound" if (hook == TC_INGRESS) == workload else "inbound"
