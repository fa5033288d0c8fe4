import time

import pytest

from exporter.bpf.maps import MapMissing
from exporter.node import NodeError
from exporter.snapshot.source import LiveNode


class Reader:
    """Answers with the question."""

    name = "echo"

    def info(self, pin):
        return ("info", pin)

    def read(self, pin, *, sum_cpus, check):
        check(None)
        return ("read", pin, sum_cpus)

    def batches(self, pin):
        return ("batches", pin)

    def programs(self, ids):
        return ["programs", *ids]


class Links:
    """Links and routes that were followed."""

    def links(self):
        return ("links",)

    def host_routes(self):
        return ("routes",)


@pytest.fixture
def node(tmp_path):
    """A node whose BPF file system and run directory are plain folders."""
    (tmp_path / "bpf/tc/globals").mkdir(parents=True)
    (tmp_path / "calico").mkdir()
    return LiveNode(Reader(), tmp_path / "bpf", tmp_path / "calico")


def test_pins_are_the_files_of_the_globals_folder(node, tmp_path):
    for name in ("cali_iface4", "cali_counters6", "anything"):
        (tmp_path / "bpf/tc/globals" / name).touch()
    (tmp_path / "bpf/tc/globals/folder").mkdir()
    (tmp_path / "bpf/tc/globals/link").symlink_to("cali_iface4")
    assert ["anything", "cali_counters6", "cali_iface4"] == node.pin_names()


def test_policy_files_are_read_of_all_interfaces_or_of_some(node, tmp_path):
    folder = tmp_path / "calico/bpf/policy"
    folder.mkdir(parents=True)
    names = {"cali1_ingress_v4.json", "cali1_egress_v6.json", "cali12_ingress_v4.json", "eth0_xdp_v4.json", "notes.txt"}
    for name in names:
        (folder / name).write_text(name)
    assert names == node.policy_files().files.keys()
    some = node.policy_files({"cali1", "eth0"}).files
    assert {"cali1_ingress_v4.json", "cali1_egress_v6.json", "eth0_xdp_v4.json"} == some.keys()
    assert {} == node.policy_files(set()).files


def test_without_the_bpf_file_system_pins_are_missing(tmp_path):
    node = LiveNode(Reader(), tmp_path / "nowhere", tmp_path)
    for ask in (node.pin_names, node.attach_point_folders):
        with pytest.raises(
            MapMissing, match=r"nowhere/tc(/globals)? does not exist: no BPF file system is mounted there"
        ):
            ask()


def test_a_map_is_asked_for_by_its_path_every_time(node, tmp_path):
    pin = f"{tmp_path}/bpf/tc/globals/cali_counters6"
    assert ("info", pin) == node.map_info("cali_counters6")
    assert ("read", pin, False) == node.map_dump("cali_counters6")
    assert ("read", pin, True) == node.map_dump("cali_counters6", sum_cpus=True)
    assert ("batches", pin) == node.map_batches("cali_counters6")
    assert ["programs", 7, 8] == node.programs([7, 8])
    assert "echo" == node.reader_name


def test_folders_of_attach_points_are_those_with_counters(node, tmp_path):
    for name in ("eth0_igr", "eth0_egr", "eth0_xdp", "other"):
        (tmp_path / "bpf/tc" / name).mkdir()
    for name in ("eth0_igr/cali_counters1", "eth0_xdp/cali_jump2", "other/cali_counters1", "cali1_egr"):
        (tmp_path / "bpf/tc" / name).touch()
    assert ["eth0_igr"] == node.attach_point_folders()


def test_calicos_files_are_in_its_run_directory(node, tmp_path):
    (tmp_path / "calico/endpoint-status").mkdir()
    (tmp_path / "calico/endpoint-status/k8s ns%2Fp eth0").write_bytes(b"{}")
    (tmp_path / "calico/bpf/policy").mkdir(parents=True)
    (tmp_path / "calico/bpf/policy/cali1_egress_v4.json").write_bytes(b"[]")
    assert {"k8s ns%2Fp eth0": b"{}"} == node.endpoint_status().files
    assert {"cali1_egress_v4.json": b"[]"} == node.policy_files().files
    assert ["cali1_egress_v4.json"] == node.policy_file_names()


def test_files_that_calico_does_not_write_are_none_and_no_error(node):
    assert not node.endpoint_status().present
    assert not node.policy_files().present
    assert [] == node.policy_file_names()


def test_a_status_file_larger_than_any_status_is_left_out(node, tmp_path):
    (tmp_path / "calico/endpoint-status").mkdir()
    (tmp_path / "calico/endpoint-status/k8s ns%2Fp eth0").write_bytes(b" " * ((1 << 16) + 1))
    assert {} == node.endpoint_status().files
    assert 1 == len(node.endpoint_status().problems)


def test_a_folder_that_cannot_be_listed_is_a_node_error(node, tmp_path):
    (tmp_path / "calico/endpoint-status").touch()
    with pytest.raises(NodeError):
        node.endpoint_status()


def test_live_links_are_not_read_again(tmp_path):
    node = LiveNode(Reader(), tmp_path, tmp_path, Links())
    assert (("links",), ("routes",)) == (node.links(), node.host_routes())


def test_links_that_are_not_followed_are_asked_of_the_kernel(node):
    assert "lo" in {link.name for link in node.links()}
    assert {one.ifindex for one in node.host_routes()} <= {link.ifindex for link in node.links()}
    assert "lo" in node.nics()
    assert "127.0.0.1" in {one.address for one in node.addresses()}


def test_a_running_node_has_the_kernels_clock_and_predates_nothing(node):
    before = time.monotonic_ns()
    assert before <= node.clock_ns() <= time.monotonic_ns()
    assert not node.predates("IPv4 route")
