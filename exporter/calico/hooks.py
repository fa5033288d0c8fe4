"""Hooks and directions, the two words for "which way" that must not be mixed up.

A hook is where Calico's program sits, seen from the host: the second u32 of a counter key (felix/bpf-gpl/counters.h)
and the columns of Calico's own table. A direction is seen from the endpoint itself, pod or node: what leaves a pod
enters the host, so tc ingress of a workload interface is its outbound traffic; for a host interface nothing flips.
"""

TC_INGRESS, TC_EGRESS, XDP = 0, 1, 2

HOOKS = (TC_INGRESS, TC_EGRESS, XDP)
TC_HOOKS = (TC_INGRESS, TC_EGRESS)
_NAMES = ("tc_ingress", "tc_egress", "xdp")


def hook_name(hook: int) -> str:
    """The `hook` label of the number in a counter key; one that no release uses shows as `hook:<n>`."""
    return _NAMES[hook] if hook < len(_NAMES) else f"hook:{hook}"


def direction(hook: int, *, workload: bool) -> str:
    """`inbound` or `outbound` as the endpoint sees it; XDP runs before everything else and is inbound.

    Empty for a hook that no release uses.
    """
    if hook == XDP:
        return "inbound"
    if hook not in TC_HOOKS:
        return ""
    return "outbound" if (hook == TC_INGRESS) == workload else "inbound"
