import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.pins import (
    CONNTRACK,
    COUNTERS,
    FAILSAFES,
    IFACE,
    IP_SETS,
    NAT_AFFINITY,
    NAT_BACKENDS,
    NAT_FRONTENDS,
    POLICY_PROGRAMS,
    PROGRAMS,
    ROUTES,
    RULES,
    Pin,
    is_attach_point_counters,
    is_attach_point_folder,
    parse_pins,
)

# Everything that v3.32.1 had pinned under tc/globals on a recorded node.
# fmt: off
RECORDED = [
    "cali_counters6", "cali_iface4", "cali_jump_egr2", "cali_jump_ing2", "cali_perf_evnt", "cali_profiling2",
    "cali_progs_egr2", "cali_progs_ing2", "cali_qos", "cali_rule_ctrs2", "cali_state6", "cali_v4_arp2",
    "cali_v4_ccq2", "cali_v4_ct4", "cali_v4_ct_nats", "cali_v4_frags2", "cali_v4_frgfwd3", "cali_v4_frgtmp2",
    "cali_v4_fsafes2", "cali_v4_ip_sets", "cali_v4_mglv2", "cali_v4_nat_aff", "cali_v4_nat_be", "cali_v4_nat_fe3",
    "cali_v4_routes", "cali_v4_sprefix", "cali_v4_srmsg", "cali_v6_arp2", "cali_v6_ccq2", "cali_v6_ct4",
    "cali_v6_ct_nats", "cali_v6_fsafes2", "cali_v6_ip_sets", "cali_v6_mglv2", "cali_v6_nat_aff", "cali_v6_nat_be",
    "cali_v6_nat_fe3", "cali_v6_routes", "cali_v6_sprefix", "cali_v6_srmsg", "xdp_cali_jump3", "xdp_cali_progs3",
]
# fmt: on


def test_of_all_recorded_pins_the_needed_ones_are_found():
    of_a_family = [
        pin
        for family in (4, 6)
        for pin in (
            Pin(IP_SETS[family], 1, f"cali_v{family}_ip_sets", old=False),
            Pin(FAILSAFES[family], 2, f"cali_v{family}_fsafes2", old=False),
            Pin(NAT_AFFINITY[family], 1, f"cali_v{family}_nat_aff", old=False),
            Pin(NAT_BACKENDS[family], 1, f"cali_v{family}_nat_be", old=False),
            Pin(NAT_FRONTENDS[family], 3, f"cali_v{family}_nat_fe3", old=False),
            Pin(CONNTRACK[family], 4, f"cali_v{family}_ct4", old=False),
            Pin(ROUTES[family], 1, f"cali_v{family}_routes", old=False),
        )
    ]
    expected = (
        *sorted(of_a_family),
        Pin(POLICY_PROGRAMS["xdp"], 3, "xdp_cali_jump3", old=False),
        Pin(COUNTERS, 6, "cali_counters6", old=False),
        Pin(POLICY_PROGRAMS["egress"], 2, "cali_jump_egr2", old=False),
        Pin(IFACE, 4, "cali_iface4", old=False),
        Pin(POLICY_PROGRAMS["ingress"], 2, "cali_jump_ing2", old=False),
        Pin(PROGRAMS, 2, "cali_progs_egr2", old=False),
        Pin(PROGRAMS, 2, "cali_progs_ing2", old=False),
        Pin(PROGRAMS, 3, "xdp_cali_progs3", old=False),
        Pin(RULES, 2, "cali_rule_ctrs2", old=False),
    )
    assert expected == parse_pins(RECORDED)


@pytest.mark.parametrize(
    ("name", "datum", "version", "old"),
    [
        ("cali_counters", COUNTERS, 1, False),
        ("cali_counters2", COUNTERS, 2, False),
        ("cali_counters10", COUNTERS, 10, False),
        ("cali_counters6_old", COUNTERS, 6, True),
        ("cali_counters_old", COUNTERS, 1, True),
        ("cali_iface", IFACE, 1, False),
        ("cali_iface4_old", IFACE, 4, True),
        ("cali_rule_ctrs2", RULES, 2, False),
        ("cali_progs", PROGRAMS, 1, False),
        ("cali_progs3", PROGRAMS, 3, False),
        ("cali_progs_ing2", PROGRAMS, 2, False),
        ("cali_progs_egr", PROGRAMS, 1, False),
        ("cali_p_nk_ing2", PROGRAMS, 2, False),
        ("cali_p_nk_egr", PROGRAMS, 1, False),
        ("xdp_cali_progs3", PROGRAMS, 3, False),
        ("cali_v4_ct3_old", CONNTRACK[4], 3, True),
        ("cali_v6_ct", CONNTRACK[6], 1, False),
        ("cali_v6_nat_fe4", NAT_FRONTENDS[6], 4, False),
    ],
)
def test_a_name_is_a_base_a_version_and_perhaps_old(name, datum, version, old):
    assert (Pin(datum, version, name, old),) == parse_pins([name])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_old",
        "6",
        "cali_",
        "cali_v4_ct_nats",
        "cali_v5_ct4",
        "cali_ct4",
        "cali_countersx",
        "cali_counters6_new",
        "cali_counters6_old_old",
        "cali_counters_old6",
        "cali_counters-1",
        "cali_counters 6",
        "cali_counters6 ",
        "cali_counters6\n",
        "cali_counters６",  # a full-width six  # noqa: RUF001
        "cali_counters12345678901234567890",
        "Cali_counters6",
        "xcali_counters6",
        "my_cali_counters6",
        "cali_state6",
        "cilium_metrics",
    ],
)
def test_any_other_name_is_left_out(name):
    assert () == parse_pins([name])


def test_pins_come_by_datum_and_version_whatever_the_order_of_names():
    names = ["cali_rule_ctrs2", "cali_counters10", "cali_counters2", "cali_counters10_old", "cali_counters"]
    expected = ["cali_counters", "cali_counters2", "cali_counters10", "cali_counters10_old", "cali_rule_ctrs2"]
    assert expected == [pin.name for pin in parse_pins(names)]
    assert parse_pins(names) == parse_pins(reversed(names))


@given(st.lists(st.text()))
def test_any_names_are_sorted_out_without_an_error(names):
    assert {pin.name for pin in parse_pins(names)} <= set(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eth0_igr", True),
        ("eth0_egr", True),
        ("eth0_xdp", True),
        ("cali86e35d8c298_igr", True),
        ("bond0.12_egr", True),
        ("globals", False),
        ("_igr", False),
        ("igr", False),
        ("eth0_igr2", False),
        ("eth0", False),
    ],
)
def test_a_folder_of_an_attach_point_is_an_interface_and_a_hook(name, expected):
    assert expected == is_attach_point_folder(name)


@pytest.mark.parametrize(
    ("name", "expected"), [("cali_counters1", True), ("cali_counters", True), ("cali_jump2", False), ("", False)]
)
def test_a_counter_map_of_an_attach_point_is_known_by_its_name(name, expected):
    assert expected == is_attach_point_counters(name)
