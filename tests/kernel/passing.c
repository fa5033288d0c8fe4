// An XDP program that lets everything pass: something that a link can hold.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("xdp")
int passing(struct xdp_md *context)
{
	return XDP_PASS;
}

char its_license[] SEC("license") = "Apache-2.0";
