"""The maps that can fill, by the names that releases v3.26 to v3.33 pin."""

import pytest

from exporter.calico.map_kinds import filling_maps


@pytest.mark.parametrize(
    ("name", "word", "family", "version"),
    [
        ("cali_v4_ct3", "conntrack", "4", 3),
        ("cali_v6_ct4", "conntrack", "6", 4),
        ("cali_v4_ct_nats", "nat_conntrack", "4", 1),
        ("cali_v4_ccq2", "conntrack_cleanup", "4", 2),
        ("cali_v4_nat_fe3", "nat_frontend", "4", 3),
        ("cali_v6_nat_be", "nat_backend", "6", 1),
        ("cali_v4_nat_aff", "nat_affinity", "4", 1),
        ("cali_v4_srmsg", "nat_sendmsg", "4", 1),
        ("cali_v6_mglv2", "maglev", "6", 2),
        ("cali_v4_routes", "route", "4", 1),
        ("cali_v6_ip_sets", "ip_sets", "6", 1),
        ("cali_v4_sprefix", "source_prefixes", "4", 1),
        ("cali_v4_fsafes2", "failsafe", "4", 2),
        ("cali_v6_arp2", "arp", "6", 2),
        ("cali_v4_frags3", "fragments", "4", 3),
        ("cali_v4_frgfwd4", "fragments_forwarded", "4", 4),
        ("cali_qos", "qos", "", 1),
        ("cali_qos2", "qos", "", 2),
        ("cali_qos_conn", "qos_connections", "", 1),
        ("cali_v4_novel7", "cali_v4_novel7", "", 1),
    ],
)
def test_a_pinned_name_has_its_word_family_and_version(name, word, family, version):
    (((pin,),)) = filling_maps((name,))
    assert (word, family, name) == (pin.map, pin.ip_family, pin.name)


@pytest.mark.parametrize(
    "name",
    ["cali_v4_ct3_old", "cali_counters6", "cali_iface4", "cali_state4", "cali_jump_ing2", "cali_rb_evnt", "other", "X"],
)
def test_arrays_copies_maps_that_are_read_whole_and_others_are_left_out(name):
    assert () == filling_maps((name,))


def test_versions_of_one_map_come_together():
    found = filling_maps(("cali_v4_ct4", "cali_v6_ct4", "cali_v4_ct3"))
    assert [["cali_v4_ct3", "cali_v4_ct4"], ["cali_v6_ct4"]] == [[pin.name for pin in one] for one in found]
