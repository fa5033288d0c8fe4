// Two tc programs for the host side of a pod's veth that keep counters in the shape of Calico's newest layout: every
// packet in slot 0, UDP from the pod to port 9999 dropped in slot 4, other UDP from the pod in slot 2. Without an entry
// for its interface a program drops everything uncounted, as Calico's does since v3.31.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { TC_INGRESS, TC_EGRESS };
enum { TOTAL = 0, ACCEPTED_BY_POLICY = 2, DROPPED_BY_POLICY = 4, SLOTS = 27 };
#define DENIED_PORT 9999

struct key {
	__u32 ifindex;
	__u32 hook;
};

struct entry {
	__u64 slot[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 20000);
	__type(key, struct key);
	__type(value, struct entry);
} cali_counters6 SEC(".maps");

static __always_inline struct entry *counted(struct __sk_buff *skb, __u32 hook)
{
	struct key key = { skb->ifindex, hook };
	struct entry *entry = bpf_map_lookup_elem(&cali_counters6, &key);

	if (entry)
		entry->slot[TOTAL]++;
	return entry;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
	struct entry *entry = counted(skb, TC_INGRESS);
	struct iphdr ip;
	struct udphdr udp;

	if (!entry)
		return TC_ACT_SHOT;
	if (skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_OK;
	if (ip.protocol != IPPROTO_UDP || bpf_skb_load_bytes(skb, ETH_HLEN + 4 * ip.ihl, &udp, sizeof(udp)))
		return TC_ACT_OK;
	if (udp.dest == bpf_htons(DENIED_PORT)) {
		entry->slot[DROPPED_BY_POLICY]++;
		return TC_ACT_SHOT;
	}
	entry->slot[ACCEPTED_BY_POLICY]++;
	return TC_ACT_OK;
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
	return counted(skb, TC_EGRESS) ? TC_ACT_OK : TC_ACT_SHOT;
}

char its_license[] SEC("license") = "Apache-2.0";
