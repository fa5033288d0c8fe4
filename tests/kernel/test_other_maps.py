"""Maps of other programs under Calico's names: each is a sentence, whatever reads the node."""

import pytest

from exporter.errors import ExporterError
from exporter.page.views import PARTS as PAGE_PARTS
from exporter.page.views import Wanted, node_view
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode

pytestmark = pytest.mark.kernel

# Numbers of enum bpf_map_type, with key size, value size and number of entries that the kernel takes.
KINDS = {
    "hash": (1, 8, 216, 10),
    "array": (2, 4, 216, 10),
    "prog_array": (3, 4, 4, 10),
    "percpu_hash with other keys": (5, 4, 216, 10),
    "percpu_array": (6, 4, 216, 10),
    "stack_trace": (7, 4, 80, 10),
    "lpm_trie": (11, 20, 4, 10),
    "queue": (22, 0, 8, 10),
    "stack": (23, 0, 8, 10),
    "ringbuf": (27, 0, 0, 1 << 16),
    "bloom_filter": (30, 0, 8, 10),
}
NAMES = ("cali_counters6", "cali_rule_ctrs2", "cali_iface4")


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_another_kind_is_a_sentence_for_every_reader_and_on_the_page(kind, reader, make_map, bpf_fs, tmp_path):
    number, key, value, entries = KINDS[kind]
    flags = 1 if kind == "lpm_trie" else 0
    for name in (*NAMES, "cali_progs_ing2"):
        if kind != "prog_array" or name in NAMES:
            make_map(name, number, key, value, max_entries=entries, flags=flags)
    node = LiveNode(reader, bpf_fs, tmp_path)
    snapshot = take_snapshot(node, Settings(), Memory(), PAGE_PARTS)
    for part in (snapshot.counters, snapshot.rule_hits, snapshot.ifstate):
        with pytest.raises(ExporterError, match="with keys of"):
            part.get()
    assert "which cannot be Calico's counters map" in node_view(None, snapshot, Wanted()).problem


@pytest.mark.parametrize("kind", [one for one in KINDS if KINDS[one][1] == 0])
def test_a_map_without_keys_can_be_read_by_no_reader_and_says_so(kind, reader, make_map):
    number, key, value, entries = KINDS[kind]
    made = make_map("cali_counters6", number, key, value, max_entries=entries)
    with pytest.raises(ExporterError):
        reader.read(str(made.pin))


def test_a_check_of_the_shape_ends_a_read_before_any_content(reader, make_map, monkeypatch):
    made = make_map("cali_counters6", 5, 8, 216)
    checked = []

    def refuse(info):
        checked.append(info)
        raise ExporterError("another map")

    assert reader.read(str(made.pin), check=checked.append).info == reader.info(str(made.pin)) == checked[0]
    for module in ("library", "bpftool"):
        monkeypatch.setattr(f"exporter.bpf.{module}.possible_cpus", None)  # what every read of a content asks first
    with pytest.raises(ExporterError, match="another map"):
        reader.read(str(made.pin), check=refuse)
    assert checked[0] == checked[1]
