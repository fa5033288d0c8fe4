import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDump, MapInfo, sum_over_cpus
from exporter.calico import LayoutError, rules
from exporter.calico.names import workload_interface
from exporter.calico.rules import EGRESS, INGRESS, decode_rule_hits, rule_ids, tier_end_id
from exporter.calico.tables import Columns
from exporter.snapshot.pinned_maps import columns_of
from tests.recorded import NAMES, law_of_recordings

HASHED = [one for one in NAMES if "flowlogs" not in one]
OTHER = {INGRESS: EGRESS, EGRESS: INGRESS}
PODS = {"ns-a": "client", "ns-b": "server", "ns-c": "plain", "ns-d": "open"}
NAMESPACES = {workload_interface("cali", namespace, pod): namespace for namespace, pod in PODS.items()}
LONG = "ns-a/this-is-a-very-long-network-policy-name-that-needs-hashing-0001"
ANY_ID = st.integers(0, (1 << 64) - 1)


def columns(*entries):
    """The columns of entries (id, hits of each CPU), as a snapshot hands them over."""
    keys = b"".join(struct.pack("<Q", key) for key, _ in entries)
    values = b"".join(struct.pack(f"<{len(hits)}Q", *hits) for _, hits in entries)
    info = MapInfo("/pin", 1, "cali_rule_ctrs2", "percpu_hash", 8, 8, 10000, 0)
    return columns_of(sum_over_cpus(MapDump(info, keys, values, len(entries[0][1]) if entries else 2)))


# Recorded with flow logs off: the prefix that each id is made of, and what it was made of.
@pytest.mark.parametrize(
    ("expected", "about"),
    [
        (152555864995369539, ("deny", EGRESS, 0, "policy", "GlobalNetworkPolicy", "security.gate")),
        (5091920221193603583, ("deny", INGRESS, 0, "policy", "GlobalNetworkPolicy", "security.gate")),
        (17852829741050675877, ("pass", EGRESS, 2, "policy", "GlobalNetworkPolicy", "security.gate")),
        (5287221905599173527, ("allow", INGRESS, 0, "policy", "NetworkPolicy", "ns-b/allow-http")),
        (4952318419943482964, ("allow", EGRESS, 1, "policy", "NetworkPolicy", "ns-a/egress-rules")),
        (3603046014518398969, ("deny", EGRESS, 0, "policy", "NetworkPolicy", LONG)),
        (5860310824970500838, ("allow", EGRESS, 0, "profile", "Profile", "kns.ns-c")),
        (3430838024578618794, ("allow", INGRESS, 0, "profile", "Profile", "kns.ns-c")),
        (0x196BE6D8AC106955, ("deny", EGRESS, 0, "policy", "", "security.gate")),  # v3.29
        (1384899391685263999, ("pass", EGRESS, 2, "policy", "", "security.gate")),  # v3.29: next-tier
        (15179109609825793839, ("deny", EGRESS, 0, "policy", "", "security.gate")),  # v3.30
    ],
)
def test_a_recorded_rule_has_the_id_that_was_recorded(expected, about):
    assert expected in rule_ids(*about)


@pytest.mark.parametrize(
    ("expected", "about"),
    [
        (8714826741386839106, ("deny", INGRESS, "security")),
        (1545619793626482357, ("deny", EGRESS, "default")),
        (18320867814996200297, ("pass", EGRESS, "passtier")),
        (4774704616106716141, ("pass", INGRESS, "default")),
    ],
)
def test_a_recorded_tiers_end_has_the_id_that_was_recorded(expected, about):
    assert expected == tier_end_id(*about)


def directed(program):
    """The tiers of a program, each with the direction that its rules have to their own endpoint."""
    given = EGRESS if program.about.direction == EGRESS else INGRESS
    for tier in program.tiers:
        of_other = tier.before_workload and program.about.interface in NAMESPACES
        yield tier, OTHER[given] if of_other else given


def rows_of(source):
    """What ids are made of and the id of each recorded rule that has one."""
    for program in source.policies().files.values():
        profile = f"kns.{NAMESPACES.get(program.about.interface)}"
        for tier, direction in directed(program):
            for policy in tier.policies:
                owner = "profile" if policy.kind == "Profile" else "policy"
                name = policy.name or profile
                for rule in policy.rules:
                    if rule.id:
                        yield rule.id, direction, (rule.action, rule.position, owner, policy.kind, name)


def ids_of(direction, action, *others):
    return list(rule_ids(action, direction, *others))


@law_of_recordings(HASHED)
def every_recorded_id_is_that_of_its_rule_and_direction(recording):
    for expected, direction, about in rows_of(recording.bundle):
        assert expected in ids_of(direction, *about)
        assert expected not in ids_of(OTHER[direction], *about)


@law_of_recordings(HASHED)
def every_recorded_end_of_a_tier_has_the_id_of_its_direction(recording):
    for program in recording.bundle.policies().files.values():
        for tier, direction in directed(program):
            assert tier.end_id in {0, tier.end_action and tier_end_id(tier.end_action, direction, tier.name)}


@pytest.mark.parametrize("name", ["v3.30.7/46-flowlogs-enabled.after", "v3.32.1/46-flowlogs-enabled.after"])
def test_with_flow_logs_no_id_follows_the_formula(recorded, name):
    rows = list(rows_of(recorded(name)))
    assert rows
    assert not [expected for expected, direction, about in rows if expected in ids_of(direction, *about)]


# http://www.isthe.com/chongo/src/fnv/test_fnv.c
@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0xCBF29CE484222325), ("a", 0xAF63DC4C8601EC8C), ("foobar", 0x85944171F73967E8)],
)
def test_the_hash_is_fnv_1a(text, expected):
    assert expected == rules._fnv(text)


@given(st.integers(0, 200))
def test_a_prefix_never_reaches_64_bytes_and_a_short_one_stays(length):
    prefix = "DPI0|" + "x" * length
    limited = rules._limited(prefix)
    assert min(len(prefix), 63) == len(limited)
    assert (limited == prefix) == (len(prefix) < 63)


def test_a_long_prefix_keeps_its_ends():
    limited = rules._limited(f"DPE0|np/{LONG}")
    assert "DPE0|np/ns_t4KeCQKZ1Q2Y2Q7QvDjnPRqM5CkiiLOg3fQpgA2rh_shing-0001" == limited


def test_v3_29_hashes_a_long_name_whole():
    assert rules._fnv(f"denyPolicyEgress0{LONG}") in rule_ids("deny", EGRESS, 0, "policy", "", LONG)


ABOUT = st.tuples(
    st.sampled_from(["allow", "deny", "pass", "log"]),
    st.sampled_from([INGRESS, EGRESS]),
    st.integers(0),
    st.sampled_from(["policy", "profile"]),
    st.sampled_from(["", "Profile", "NetworkPolicy", "KubernetesClusterNetworkPolicy"]) | st.text(),
    st.text(st.characters(exclude_categories=["Cs"])),
)


@given(ABOUT)
def test_anything_has_ids_that_a_key_can_hold(about):
    action, direction, *_, name = about
    found = [*rule_ids(*about), tier_end_id(action, direction, name)]
    assert 3 <= len(found) <= 4
    assert all(0 <= one < 1 << 64 for one in found)


@given(st.sampled_from(["NetworkPolicy", "GlobalNetworkPolicy", "KubernetesNetworkPolicy"]), st.integers(0, 999))
def test_no_two_rules_of_a_policy_share_an_id(kind, position):
    found = [
        one
        for action in ("allow", "deny", "pass")
        for direction in (INGRESS, EGRESS)
        for place in (position, position + 1)
        for one in rule_ids(action, direction, place, "policy", kind, "ns-a/p")
    ]
    assert len(found) == len(set(found))


def test_hits_of_all_cpus_are_summed_and_come_by_ascending_id():
    found = decode_rule_hits(columns((9, [1, 2]), (2, [0, 0]), ((1 << 64) - 1, [1 << 40, 1])))
    assert [(2, 0), (9, 3), ((1 << 64) - 1, (1 << 40) + 1)] == list(found.items())


def test_a_sum_past_64_bits_wraps():
    found = decode_rule_hits(columns((1, [(1 << 64) - 1, 2])))
    assert {1: 1} == found


@given(st.dictionaries(ANY_ID, st.integers(0, (1 << 60) - 1)), st.lists(ANY_ID))
def test_an_id_without_an_entry_has_no_hits_and_every_other_its_own(entries, asked):
    found = decode_rule_hits(columns(*((key, [hits]) for key, hits in entries.items())))
    assert entries == found
    assert [entries.get(one, 0) for one in asked] == [found.get(one, 0) for one in asked]


def test_an_empty_map_has_no_hits():
    found = decode_rule_hits(columns())
    assert {} == found


@pytest.mark.parametrize(("key_size", "value_size"), [(4, 8), (8, 4), (16, 8), (8, 16), (0, 8), (8, 0)])
def test_a_map_of_other_sizes_is_an_error_that_says_so(key_size, value_size):
    with pytest.raises(LayoutError, match=f"keys of {key_size} and values of {value_size} bytes, expected 8 and 8"):
        decode_rule_hits(Columns(bytes(key_size), bytes(value_size), key_size, value_size))


@st.composite
def any_columns(draw):
    count = draw(st.integers(0, 4))
    sizes = [draw(st.integers(0, 17) | st.just(8)) for _ in range(2)]
    keys, values = (draw(st.binary(min_size=count * size, max_size=count * size)) for size in sizes)
    return Columns(keys, values, *sizes)


@given(any_columns())
def test_any_bytes_of_any_shape_are_hits_or_a_layout_error(anything):
    try:
        found = decode_rule_hits(anything)
    except LayoutError:
        assert (anything.key_size, anything.value_size) != (8, 8)
        return
    assert sorted({rule_id for (rule_id,) in struct.iter_unpack("<Q", anything.keys)}) == list(found)
    assert all(0 <= hits < 1 << 64 for hits in found.values())
