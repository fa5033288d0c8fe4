from types import SimpleNamespace

import psutil
import pytest

from exporter.node import NodeError, nic
from exporter.node.netlink import read_links
from exporter.node.nic import Nic, NicCounters, read_nics


def test_every_link_of_this_machine_has_counters():
    assert {link.name for link in read_links()} <= read_nics().keys()


def test_what_the_host_received_and_sent_is_told_apart(monkeypatch):
    counters = SimpleNamespace(
        packets_recv=1, bytes_recv=2, dropin=3, errin=4, packets_sent=5, bytes_sent=6, dropout=7, errout=8
    )
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: {"eth0": counters})
    assert {"eth0": Nic(NicCounters(1, 2, 3, 4), NicCounters(5, 6, 7, 8))} == read_nics()


def test_names_of_any_bytes_have_what_they_received(monkeypatch, tmp_path):
    names = {b"eth0": "eth0", "a\u2003b".encode(): "a\u2003b", b"\x85\x1fx": "\\x85\x1fx"}
    rows = b"".join(b"%6s: %7d %4d" % (name, 10 * n, n) + b" 0" * 14 + b"\n" for n, name in enumerate(names, 1))
    (tmp_path / "dev").write_bytes(b"Inter-|\n face |\n" + rows)
    monkeypatch.setattr(nic, "_PROC_NET_DEV", tmp_path / "dev")
    assert {name: (n, 10 * n) for n, name in enumerate(names.values(), 1)} == nic.read_received()


@pytest.mark.parametrize("error", [OSError("no /proc"), RuntimeError("no counters")])
def test_counters_that_cannot_be_read_are_a_node_error(monkeypatch, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    with pytest.raises(NodeError, match="interface counters could not be read: no "):
        read_nics()
