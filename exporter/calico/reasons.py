"""The meaning of each drop reason of Calico, and what to check next.

The meanings are those of the counters in felix/bpf-gpl (`CALI_REASON_*` where each is set) at v3.32.1.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """A drop reason: what happened to the packet, and what to check."""

    meaning: str
    check: str


REASONS = {
    "policy": Reason(
        "a rule, a tier's end or a missing profile match denied them",
        "compare what these packets are with the endpoint's rules; `policy` shows them in order",
    ),
    "too_short": Reason(
        "a header was cut off: the packet ends before its IP, TCP, UDP or ICMP header does",
        "find the broken sender or raw-socket program, and check MTU and offload settings on the path",
    ),
    "checksum": Reason(
        "the checksum could not be corrected after an address was rewritten",
        "check NAT and the offload settings of the interface (ethtool -k)",
    ),
    "ip_options": Reason(
        "the IPv4 header carries options that the program cannot handle",
        "find the sender of packets with IP options",
    ),
    "malformed_ip": Reason(
        "the IP header contradicts itself, such as a header length below 20 bytes",
        "find the broken sender; a capture on the interface shows its packets",
    ),
    "encap_failed": Reason(
        "the packet could not be put into the tunnel (VXLAN) to its node",
        "check the routes to the other node, the tunnel's MTU and free memory",
    ),
    "decap_failed": Reason(
        "a packet from the tunnel could not be unpacked",
        "check the tunnel's MTU, and whether all nodes run the same encapsulation",
    ),
    "unknown_source": Reason(
        "tunnel traffic (VXLAN, IPIP, WireGuard) that is not between known cluster nodes, IPIP sent by a pod, or a "
        "client that a service does not admit (loadBalancerSourceRanges)",
        "check whether a node was added or has changed its address, and who else sends tunnel packets to this node; a "
        "pod that spoofs its source is not counted here",
    ),
    "unknown_route": Reason(
        "the backend chosen for a service has an address that is not in Calico's route map",
        "check whether the backend still exists and whether calico-node on this node is ready",
    ),
    "blackhole_route": Reason(
        "the destination is in a range that Calico routes into nothing, such as a service address without service",
        "check whether the service or pod with this address still exists",
    ),
    "nat_collision_unresolved": Reason(
        "NAT mapped two flows to the same addresses and ports, and no free source port was found",
        "check for very many connections to one backend, and for short-lived connections that reuse ports",
    ),
    "conntrack_create_failed": Reason(
        "no connection tracking entry could be made, most often because the table is full",
        "compare the size of the table (bpfMapSizeConntrack) with the connections of this node",
    ),
    "fragment_incomplete": Reason(
        "a fragment was taken out until the rest of its packet comes; it is lost only if the rest does not",
        "normal where fragments are put together; if connections suffer, check the path MTU",
    ),
    "fragment_out_of_order": Reason(
        "a later fragment came without the first one, which alone tells the ports",
        "check the path MTU and whether fragments are reordered or filtered on the way",
    ),
    "fragment_unsupported": Reason(
        "the packet is a fragment, and this kernel is too old for Calico to put fragments together",
        "lower the sender's MTU so that it need not fragment, or use a newer kernel",
    ),
    "qos_limit": Reason(
        "the pod sends or receives more packets than its QoS annotation allows",
        "check the qos.projectcalico.org annotations of the pod",
    ),
    "maglev_no_backend": Reason(
        "consistent hashing found no backend for the service's address",
        "check whether the service has ready endpoints",
    ),
    "host_ip_unknown": Reason(
        "a packet for a service has to go to another node before this node's own address is known",
        "check whether calico-node is ready on this node; it should pass a moment after its start",
    ),
}
_PAGE = "https://github.com/calico-bpf-exporter/calico-bpf-exporter/blob/main/docs/reasons.md"
_UNKNOWN = Reason("this build of Calico names a reason that this program does not know", "see --calico.layout-file")


def reason_of(name: str) -> Reason:
    """What the drop reason of this name means."""
    return REASONS.get(name, _UNKNOWN)


def page_of(name: str) -> str:
    """Where to read more about the drop reason of this name."""
    return f"{_PAGE}#{name}" if name in REASONS else _PAGE
