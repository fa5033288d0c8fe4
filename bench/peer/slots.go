package main

// The 27 slots of v3.32.1: category and reason.
const slotCount = 27

type slot struct{ category, reason string }

var slots = [slotCount]slot{
	{"total", ""}, {"accepted", "failsafe"}, {"accepted", "policy"}, {"accepted", "another_program"},
	{"dropped", "policy"}, {"dropped", "too_short"}, {"dropped", "checksum"}, {"dropped", "ip_options"},
	{"dropped", "malformed_ip"}, {"dropped", "encap_failed"}, {"dropped", "decap_failed"},
	{"dropped", "unknown_source"}, {"dropped", "unknown_route"}, {"dropped", "blackhole_route"},
	{"collision", ""}, {"dropped", "nat_collision_unresolved"}, {"dropped", "conntrack_create_failed"},
	{"redirected", "plain"}, {"redirected", "neigh"}, {"redirected", "peer"}, {"dropped", "fragment_incomplete"},
	{"dropped", "fragment_out_of_order"}, {"dropped", "fragment_unsupported"}, {"dropped", "qos_limit"},
	{"unknown", "24"}, {"dropped", "maglev_no_backend"}, {"dropped", "host_ip_unknown"},
}

var coreSlots = map[int]bool{0: true, 2: true, 4: true}

var hookNames = [3]string{"tc_ingress", "tc_egress", "xdp"}

const xdp = 2

// direction is seen from the endpoint: what leaves a pod enters the host.
func direction(hook uint32, workload bool) string {
	if hook != xdp && (hook == 0) == workload {
		return "outbound"
	}
	return "inbound"
}
