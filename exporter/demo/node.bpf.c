// SPDX-License-Identifier: Apache-2.0
/*
 * The demo node's dataplane: a small tc program that counts and drops the way Calico's does, for trying and testing the
 * exporter on real packets. It is no firewall. What it mimics is what recordings of real nodes show: slot 0 for every
 * packet, slot 2 for a new flow that policy lets pass, slot 4 for every packet that policy denies, slot 5 for a header
 * that is cut off, 8 for a header length below 5, 13 for a blackhole route, 19 for an established flow handed straight
 * to its pod, 21 for a later fragment without its first; a program without its counter entry drops everything. A rule
 * counts whenever policy is evaluated: once for each flow that passes, and for each packet that is denied in the end.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 27
#define MAX_RULES 12

enum { TOTAL = 0, ACCEPTED = 2, DENIED = 4, SHORT = 5, MALFORMED = 8, BLACKHOLE = 13, PEER = 19, LATE_FRAGMENT = 21 };
enum { INGRESS = 0, EGRESS = 1 };
enum { ALLOW = 1, DENY = 2, PASS = 3 };

struct counter_key {
	__u32 ifindex, hook;
};

struct counters {
	__u64 slot[SLOTS];
};

/*
 * One step of an interface's policy: a rule, a tier's end or the profile. What is 0 matches all; a source set is an IP
 * set that the packet's source must be in. Steps of one tier share its number, and 0 is outside of any tier.
 */
struct rule {
	__u64 id, source_set;
	__u16 port;
	__u8 protocol, action, version, tier;
	__u8 padding[2];
};

struct policy {
	struct rule rules[MAX_RULES];
};

struct address {
	__u32 word[4];
};

/* A member of an IP set as Calico keeps it: the number big-endian, in the prefix length its 64 bits too. */
struct ip_set_key_v4 {
	__u32 prefix;
	__u32 set[2];
	__u32 address;
	__u16 port;
	__u8 protocol, padding;
};

struct ip_set_key_v6 {
	__u32 prefix;
	__u32 set[2];
	struct address address;
	__u16 port;
	__u8 protocol, padding;
};

struct flow {
	struct address from, to;
	__u16 from_port, to_port;
	__u32 protocol;
};

/*
 * Connection tracking in Calico's layout (v4 of its map): A is the end with the smaller address, and the leg of a
 * direction is approved by the program of the end that sends in it.
 */
enum { SYN = 0x1, ACK = 0x2, FIN = 0x4, RST = 0x8, APPROVED = 0x10, OPENER = 0x20, WORKLOAD = 0x40 };
enum { OPENED_BY_B = 0x1 }; /* in the second byte of the flags */
enum { NAT_REVERSE = 2 }; /* the type of a flow to a backend; the entry that leads to it is not made */

struct leg {
	__u64 bytes;
	__u32 packets, seqno, bits, ifindex;
};

struct tracking {
	__u64 rst_seen, last_seen;
	__u8 type, flags, flags3, flags4, padding[3], flags2;
	struct leg a_to_b, b_to_a;
};

struct ct_key_v4 {
	__u32 protocol, a, b;
	__u16 port_a, port_b;
};

struct ct_value_v4 {
	struct tracking tracking;
	__u32 tunnel, service;
	__u16 service_port, source_port;
	__u32 source;
};

struct ct_key_v6 {
	__u32 protocol;
	struct address a, b;
	__u16 port_a, port_b;
};

struct ct_value_v6 {
	struct tracking tracking;
	struct address tunnel, service;
	__u16 service_port, source_port;
	struct address source;
	__u32 padding;
};

/* Services in Calico's layouts (v3 of its maps): a frontend's prefix ends behind the source, which is not limited. */
struct frontend_key_v4 {
	__u32 prefix, address;
	__u16 port;
	__u8 protocol;
	__u32 source;
	__u8 padding;
} __attribute__((packed));

struct frontend_key_v6 {
	__u32 prefix;
	struct address address;
	__u16 port;
	__u8 protocol;
	struct address source;
	__u8 padding;
} __attribute__((packed));

struct frontend {
	__u32 id, count, local, affinity, flags;
};

struct backend_key {
	__u32 id, ordinal;
};

struct backend_v4 {
	__u32 address;
	__u16 port;
	__u8 padding[2];
};

struct backend_v6 {
	struct address address;
	__u16 port;
	__u8 padding[2];
};

/* An address, mapped into IPv6 where it is of IPv4, and a port. */
struct end {
	struct address address;
	__u16 port;
};

struct fragment {
	__u32 from, to, id;
};

/* Where a pod lives: a zero ifindex means that the address is routed into nothing. */
struct home {
	__u32 ifindex;
	__u8 mac[ETH_ALEN];
	__u8 padding[2];
};

struct packet {
	struct flow flow;
	__u32 late_fragment, first_fragment, fragment_id, from_v4, to_v4, version, tcp_flags, ports;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 20000);
	__type(key, struct counter_key);
	__type(value, struct counters);
} cali_counters6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 10000);
	__type(key, __u64);
	__type(value, __u64);
} cali_rule_ctrs2 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct counter_key);
	__type(value, struct policy);
} demo_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, struct home);
} demo_homes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_set_key_v4);
	__type(value, __u32);
} cali_v4_ip_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1048576);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_set_key_v6);
	__type(value, __u32);
} cali_v6_ip_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct ct_key_v4);
	__type(value, struct ct_value_v4);
} cali_v4_ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct ct_key_v6);
	__type(value, struct ct_value_v6);
} cali_v6_ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key_v4);
	__type(value, struct frontend);
} cali_v4_nat_fe3 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key_v6);
	__type(value, struct frontend);
} cali_v6_nat_fe3 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, struct backend_v4);
} cali_v4_nat_be SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct backend_key);
	__type(value, struct backend_v6);
} cali_v6_nat_be SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct fragment);
	__type(value, __u8);
} demo_fragments SEC(".maps");

/* Parsing says what to do with the packet: a slot to drop it under, or one of these. */
enum { PARSED = -1, NOT_IP = -2 };

static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *packet, __u32 offset)
{
	__u16 ports[4];
	/* UDP has 8 bytes of header and TCP 20, ICMP 8: less than that is a short packet. */
	__u32 need = packet->flow.protocol == IPPROTO_TCP ? 20 : 8;

	if (offset + need > skb->len)
		return SHORT;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return SHORT;
	if (packet->flow.protocol == IPPROTO_TCP)
		bpf_skb_load_bytes(skb, offset + 13, &packet->tcp_flags, 1);
	if (packet->flow.protocol == IPPROTO_TCP || packet->flow.protocol == IPPROTO_UDP) {
		packet->ports = offset;
		packet->flow.from_port = bpf_ntohs(ports[0]);
		packet->flow.to_port = bpf_ntohs(ports[1]);
		return PARSED;
	}
	/* Echo requests and replies of one ping share an identifier. */
	packet->flow.from_port = packet->flow.to_port = bpf_ntohs(ports[2]);
	return PARSED;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return SHORT;
	if (ip.ihl < 5)
		return MALFORMED;
	packet->version = 4;
	packet->from_v4 = ip.saddr;
	packet->to_v4 = ip.daddr;
	packet->flow.from.word[3] = ip.saddr;
	packet->flow.from.word[2] = bpf_htonl(0xffff);
	packet->flow.to.word[3] = ip.daddr;
	packet->flow.to.word[2] = bpf_htonl(0xffff);
	packet->flow.protocol = ip.protocol;
	packet->fragment_id = ip.id;
	packet->late_fragment = bpf_ntohs(ip.frag_off) & 0x1fff;
	packet->first_fragment = bpf_ntohs(ip.frag_off) & 0x2000;
	if (packet->late_fragment)
		return PARSED;
	return parse_ports(skb, packet, ETH_HLEN + ip.ihl * 4);
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr ip;
	__u8 type = 0;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return SHORT;
	packet->version = 6;
	__builtin_memcpy(&packet->flow.from, &ip.saddr, sizeof(packet->flow.from));
	__builtin_memcpy(&packet->flow.to, &ip.daddr, sizeof(packet->flow.to));
	packet->flow.protocol = ip.nexthdr;
	if (ip.nexthdr == IPPROTO_ICMPV6) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &type, sizeof(type)))
			return SHORT;
		if (type >= 130 && type <= 143)
			return NOT_IP; /* neighbour discovery and multicast listening: the link's own affair, like ARP */
	}
	if (ip.nexthdr == IPPROTO_HOPOPTS)
		return NOT_IP;
	return parse_ports(skb, packet, ETH_HLEN + sizeof(ip));
}

static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, packet);
	return NOT_IP;
}

static __always_inline void hit(__u64 id)
{
	__u64 one = 1, *count = bpf_map_lookup_elem(&cali_rule_ctrs2, &id);

	if (count)
		*count += 1;
	else
		bpf_map_update_elem(&cali_rule_ctrs2, &id, &one, BPF_ANY);
}

static __always_inline int is_member(__u64 number, const struct packet *packet)
{
	struct ip_set_key_v6 v6 = { .prefix = 224, .address = packet->flow.from };
	struct ip_set_key_v4 v4 = { .prefix = 128, .address = packet->from_v4 };

	v4.set[0] = v6.set[0] = bpf_htonl(number >> 32);
	v4.set[1] = v6.set[1] = bpf_htonl((__u32)number);
	if (packet->version == 4)
		return bpf_map_lookup_elem(&cali_v4_ip_sets, &v4) != 0;
	return bpf_map_lookup_elem(&cali_v6_ip_sets, &v6) != 0;
}

static __always_inline int matches(const struct rule *rule, const struct packet *packet)
{
	if (rule->protocol && rule->protocol != packet->flow.protocol)
		return 0;
	if (rule->port && rule->port != packet->flow.to_port)
		return 0;
	if (rule->version && rule->version != packet->version)
		return 0;
	return !rule->source_set || is_member(rule->source_set, packet);
}

/*
 * Walks the steps in order; each one that matches counts, passing ones too. A pass leads past the rest of its
 * tier. The last step matches everything and decides. An interface without policy is the node's own: it allows.
 */
static __always_inline int allowed(const struct counter_key *key, const struct packet *packet)
{
	struct policy *policy = bpf_map_lookup_elem(&demo_policy, key);
	__u8 passed = 0;

	if (!policy)
		return 1;
	for (int i = 0; i < MAX_RULES; i++) {
		struct rule *rule = &policy->rules[i];

		if (!rule->action)
			return 0;
		if ((rule->tier && rule->tier == passed) || !matches(rule, packet))
			continue;
		hit(rule->id);
		if (rule->action != PASS)
			return rule->action == ALLOW;
		passed = rule->tier;
	}
	return 0;
}

/* Puts another address and port into the packet, as its source or its destination, and into its checksums. */
static __always_inline void rewrite(struct __sk_buff *skb, const struct packet *packet, int source, const struct end *was,
				    const struct end *is)
{
	__u32 checksum = packet->ports + (packet->flow.protocol == IPPROTO_TCP ? 16 : 6);
	__u64 of_udp = packet->flow.protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u16 before = bpf_htons(was->port), after = bpf_htons(is->port);
	__u32 port = packet->ports + (source ? 0 : 2), address;
	struct address from = was->address, to = is->address;
	__s64 difference;

	bpf_l4_csum_replace(skb, checksum, before, after, of_udp | sizeof(after));
	if (packet->version == 4) {
		address = ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		bpf_l4_csum_replace(skb, checksum, from.word[3], to.word[3], of_udp | BPF_F_PSEUDO_HDR | 4);
		bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), from.word[3], to.word[3], 4);
		bpf_skb_store_bytes(skb, address, &to.word[3], 4, 0);
	} else {
		address = ETH_HLEN + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		difference = bpf_csum_diff((__be32 *)&from, sizeof(from), (__be32 *)&to, sizeof(to), 0);
		bpf_l4_csum_replace(skb, checksum, 0, difference, of_udp | BPF_F_PSEUDO_HDR);
		bpf_skb_store_bytes(skb, address, &to, sizeof(to), 0);
	}
	bpf_skb_store_bytes(skb, port, &after, sizeof(after), 0);
}

/* A backend of the service that the packet is for; its port is 0 where there is none. */
static __always_inline struct end backend_of(const struct packet *packet)
{
	struct frontend_key_v4 v4 = { .prefix = 88, .address = packet->to_v4, .source = packet->from_v4 };
	struct frontend_key_v6 v6 = { .prefix = 280, .address = packet->flow.to, .source = packet->flow.from };
	struct backend_key key = {};
	struct frontend *frontend;
	struct end end = {};

	v4.port = v6.port = packet->flow.to_port;
	v4.protocol = v6.protocol = packet->flow.protocol;
	frontend = packet->version == 4 ? bpf_map_lookup_elem(&cali_v4_nat_fe3, &v4) :
					  bpf_map_lookup_elem(&cali_v6_nat_fe3, &v6);
	if (!frontend || !frontend->count)
		return end;
	key.id = frontend->id;
	key.ordinal = packet->flow.from_port % frontend->count; /* the same for all packets of a flow */
	if (packet->version == 4) {
		struct backend_v4 *backend = bpf_map_lookup_elem(&cali_v4_nat_be, &key);

		if (backend) {
			end.address.word[2] = bpf_htonl(0xffff);
			end.address.word[3] = backend->address;
			end.port = backend->port;
		}
		return end;
	}
	struct backend_v6 *backend = bpf_map_lookup_elem(&cali_v6_nat_be, &key);

	if (backend) {
		end.address = backend->address;
		end.port = backend->port;
	}
	return end;
}

/* Calico's order: IPv4 addresses as little-endian numbers, IPv6 addresses word by word. */
static __always_inline int is_a(const struct flow *flow)
{
	for (int i = 0; i < 4; i++)
		if (flow->from.word[i] != flow->to.word[i])
			return flow->from.word[i] < flow->to.word[i];
	return flow->from_port < flow->to_port;
}

static __always_inline struct ct_key_v4 key_v4(const struct packet *packet, int a)
{
	const struct flow *flow = &packet->flow;
	struct ct_key_v4 key = {
		.protocol = flow->protocol,
		.a = a ? packet->from_v4 : packet->to_v4,
		.b = a ? packet->to_v4 : packet->from_v4,
		.port_a = a ? flow->from_port : flow->to_port,
		.port_b = a ? flow->to_port : flow->from_port,
	};

	return key;
}

static __always_inline struct ct_key_v6 key_v6(const struct packet *packet, int a)
{
	const struct flow *flow = &packet->flow;
	struct ct_key_v6 key = {
		.protocol = flow->protocol,
		.a = a ? flow->from : flow->to,
		.b = a ? flow->to : flow->from,
		.port_a = a ? flow->from_port : flow->to_port,
		.port_b = a ? flow->to_port : flow->from_port,
	};

	return key;
}

static __always_inline struct tracking *tracked(const struct packet *packet, int a)
{
	if (packet->version == 4) {
		struct ct_key_v4 key = key_v4(packet, a);

		return bpf_map_lookup_elem(&cali_v4_ct4, &key);
	}
	struct ct_key_v6 key = key_v6(packet, a);

	return bpf_map_lookup_elem(&cali_v6_ct4, &key);
}

/* What Calico's program notes of a TCP segment, without its comparison of sequence numbers. */
static __always_inline __u32 seen(__u32 tcp_flags, __u32 before)
{
	__u32 bits = 0;

	if (tcp_flags & 0x02)
		bits |= SYN;
	if (tcp_flags & 0x10 && (before | bits) & SYN)
		bits |= ACK;
	if (tcp_flags & 0x01)
		bits |= FIN;
	if (tcp_flags & 0x04)
		bits |= RST;
	return bits;
}

static __always_inline void track(struct __sk_buff *skb, struct tracking *tracking, struct leg *leg,
				  const struct packet *packet, __u32 hook)
{
	tracking->last_seen = bpf_ktime_get_ns();
	if (hook != INGRESS)
		return; /* counted where it came in */
	leg->packets += 1;
	leg->bytes += skb->len;
	leg->ifindex = skb->ifindex;
	leg->bits |= seen(packet->tcp_flags, leg->bits);
	if (packet->tcp_flags & 0x04)
		tracking->rst_seen = tracking->last_seen;
}

/* What the program before this one did, which says so in `cb`: nothing, or one of these beside the port it replaced. */
enum { ASKED = 0x10000, ANSWERED = 0x20000 };

static __always_inline void note(struct __sk_buff *skb, const struct end *was, __u32 what)
{
	skb->cb[0] = was->address.word[0];
	skb->cb[1] = was->address.word[1];
	skb->cb[2] = was->address.word[2];
	skb->cb[3] = was->address.word[3];
	skb->cb[4] = what | was->port;
}

/* The flow of an answer is that of the backend. What is constant in IPv4 stays so: the verifier then sees one state. */
static __always_inline void undo_answer(const struct __sk_buff *skb, struct packet *packet)
{
	if (packet->version == 6) {
		packet->flow.from.word[0] = skb->cb[0];
		packet->flow.from.word[1] = skb->cb[1];
		packet->flow.from.word[2] = skb->cb[2];
	}
	packet->flow.from.word[3] = packet->from_v4 = skb->cb[3];
	packet->flow.from_port = skb->cb[4];
}

/* The entry of a new flow that the program of one end lets pass. */
static __always_inline void create(struct __sk_buff *skb, const struct packet *packet, int a, __u32 hook)
{
	struct ct_value_v6 v6 = {};
	struct ct_value_v4 v4 = {};
	struct tracking tracking = { .flags2 = a ? 0 : OPENED_BY_B };
	struct leg forth = { .bits = OPENER }, back = {};
	int asked = hook == INGRESS && skb->cb[4] & ASKED;

	track(skb, &tracking, &forth, packet, hook);
	if (asked)
		tracking.type = NAT_REVERSE;
	if (hook == INGRESS)
		forth.bits |= APPROVED | WORKLOAD;
	else
		back.bits |= APPROVED;
	tracking.a_to_b = a ? forth : back;
	tracking.b_to_a = a ? back : forth;
	if (packet->version == 4) {
		struct ct_key_v4 key = key_v4(packet, a);

		v4.tracking = tracking;
		v4.service = asked ? skb->cb[3] : 0;
		v4.service_port = asked ? skb->cb[4] : 0;
		bpf_map_update_elem(&cali_v4_ct4, &key, &v4, BPF_ANY);
		return;
	}
	struct ct_key_v6 key = key_v6(packet, a);

	v6.tracking = tracking;
	if (asked) {
		v6.service.word[0] = skb->cb[0];
		v6.service.word[1] = skb->cb[1];
		v6.service.word[2] = skb->cb[2];
		v6.service.word[3] = skb->cb[3];
		v6.service_port = skb->cb[4];
	}
	bpf_map_update_elem(&cali_v6_ct4, &key, &v6, BPF_ANY);
}

/* A flow that both sides let in goes straight into the receiver's namespace, past the hook of its interface. */
static __always_inline int deliver(struct __sk_buff *skb, struct counters *counters, struct flow *flow)
{
	struct home *home = bpf_map_lookup_elem(&demo_homes, &flow->to);

	if (!home || !home->ifindex)
		return TC_ACT_OK;
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), home->mac, ETH_ALEN, 0))
		return TC_ACT_OK;
	counters->slot[PEER] += 1;
	return bpf_redirect_peer(home->ifindex, 0);
}

static __always_inline int drop(struct counters *counters, __u32 slot)
{
	if (slot < SLOTS)
		counters->slot[slot] += 1;
	return TC_ACT_SHOT;
}

static __always_inline int handle_fragment(struct counters *counters, struct packet *packet)
{
	struct fragment fragment = { packet->from_v4, packet->to_v4, packet->fragment_id };
	__u8 seen = 1;

	if (packet->late_fragment && !bpf_map_lookup_elem(&demo_fragments, &fragment))
		return drop(counters, LATE_FRAGMENT);
	if (packet->first_fragment && !packet->late_fragment)
		bpf_map_update_elem(&demo_fragments, &fragment, &seen, BPF_ANY);
	return TC_ACT_OK;
}

/* The service that a backend answers for; its port is 0 where it answers for none. */
static __always_inline struct end answered(const struct packet *packet, int a)
{
	struct end service = {};

	if (packet->version == 4) {
		struct ct_key_v4 key = key_v4(packet, a);
		struct ct_value_v4 *entry = bpf_map_lookup_elem(&cali_v4_ct4, &key);
		struct leg *back = entry ? (a ? &entry->tracking.b_to_a : &entry->tracking.a_to_b) : 0;

		if (back && entry->tracking.type == NAT_REVERSE && back->bits & OPENER) {
			service.address.word[3] = entry->service;
			service.port = entry->service_port;
		}
		return service;
	}
	struct ct_key_v6 key = key_v6(packet, a);
	struct ct_value_v6 *entry = bpf_map_lookup_elem(&cali_v6_ct4, &key);
	struct leg *back = entry ? (a ? &entry->tracking.b_to_a : &entry->tracking.a_to_b) : 0;

	if (back && entry->tracking.type == NAT_REVERSE && back->bits & OPENER) {
		service.address = entry->service;
		service.port = entry->service_port;
	}
	return service;
}

/* Sends a packet for a service to a backend, and an answer as if it were the service's. A program of its own before the
 * one that counts: in one, they would be more than the verifier follows.
 */
SEC("tc")
int translate(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct end from = {}, to = {}, is = {};

	skb->cb[4] = 0;
	if (parse(skb, &packet) != PARSED || !packet.ports)
		return TC_ACT_UNSPEC;
	from.address = packet.flow.from;
	from.port = packet.flow.from_port;
	to.address = packet.flow.to;
	to.port = packet.flow.to_port;
	is = backend_of(&packet);
	if (is.port) {
		rewrite(skb, &packet, 0, &to, &is);
		note(skb, &to, ASKED);
		return TC_ACT_UNSPEC;
	}
	is = answered(&packet, is_a(&packet.flow));
	if (is.port) {
		rewrite(skb, &packet, 1, &from, &is);
		note(skb, &from, ANSWERED);
	}
	return TC_ACT_UNSPEC;
}

static __always_inline int handle(struct __sk_buff *skb, __u32 hook)
{
	struct counter_key key = { .ifindex = skb->ifindex, .hook = hook };
	struct counters *counters = bpf_map_lookup_elem(&cali_counters6, &key);
	struct packet packet = {};
	struct leg *forth = 0, *back = 0;
	struct tracking *tracking;
	struct home *home;
	int verdict, a;

	if (!counters)
		return TC_ACT_SHOT;
	counters->slot[TOTAL] += 1;
	verdict = parse(skb, &packet);
	if (verdict == NOT_IP)
		return TC_ACT_OK;
	if (verdict != PARSED)
		return drop(counters, verdict);
	home = bpf_map_lookup_elem(&demo_homes, &packet.flow.to);
	if (hook == INGRESS && home && !home->ifindex)
		return drop(counters, BLACKHOLE);
	if (handle_fragment(counters, &packet) == TC_ACT_SHOT)
		return TC_ACT_SHOT;
	if (packet.late_fragment)
		return TC_ACT_OK;
	if (hook == INGRESS && skb->cb[4] & ANSWERED)
		undo_answer(skb, &packet);
	a = is_a(&packet.flow);
	tracking = tracked(&packet, a);
	if (tracking) {
		forth = a ? &tracking->a_to_b : &tracking->b_to_a;
		back = a ? &tracking->b_to_a : &tracking->a_to_b;
		track(skb, tracking, forth, &packet, hook);
		if (forth->bits & APPROVED && back->bits & APPROVED)
			return hook == INGRESS ? deliver(skb, counters, &packet.flow) : TC_ACT_OK;
		if ((hook == INGRESS ? forth : back)->bits & APPROVED)
			return TC_ACT_OK;
	}
	if (!allowed(&key, &packet))
		return drop(counters, DENIED);
	counters->slot[ACCEPTED] += 1;
	if (!tracking)
		create(skb, &packet, a, hook);
	else if (hook == INGRESS)
		forth->bits |= APPROVED | WORKLOAD;
	else
		back->bits |= APPROVED | WORKLOAD;
	return TC_ACT_OK;
}

SEC("tc")
int from_endpoint(struct __sk_buff *skb)
{
	return handle(skb, INGRESS);
}

SEC("tc")
int to_endpoint(struct __sk_buff *skb)
{
	return handle(skb, EGRESS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
