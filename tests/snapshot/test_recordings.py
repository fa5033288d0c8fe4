# Recordings of real nodes, compared with Calico's tables printed at the same moment.
import re
import struct
from itertools import groupby

from exporter.snapshot.memory import Memory
from tests.recorded import NAMES, PAIRS, RECORDINGS, Recording, law_of_pairs, law_of_recordings

COUNTS = {"v3.29.7": 20, "v3.30.7": 14, "v3.31.6": 18, "v3.32.1": 58, "upgrade": 6}
SLOTS = {"v3.29.7": 14, "v3.30.7": 17, "v3.31.6": 25, "v3.32.1": 27}
# Calico's tool keeps the low 32 bits of each CPU's value; here that shows.
TRUNCATED = "v3.32.1/54-cli-32bit-truncation.after"

# Calico's words for our categories.
CATEGORIES = {
    "Total": "total",
    "Accepted": "accepted",
    "Dropped": "dropped",
    "Redirect": "redirected",
    "Other": "nat_collision",
}
FLAGS = {"workload": 0x1, "v4Ready": 0x2, "v6Ready": 0x4, "host": 0x8}
STATE = re.compile(r" *(?P<ifindex>\d+) : \{flags: (?P<flags>[\w,]*), .*name: (?P<name>\S+)\}")
MOVED = re.compile(r"(?P<name>\S+) +ifindex=(?P<ifindex>\d+) hook=(?P<hook>\d):(?P<slots>(?: slot\d+[+-]\d+)+)")
NEW = re.compile(r"ifindex=(\d+) hook=(\d): KEY NEW")
# One packet on the loopback interface between the recording of the map and Calico's print of it.
MEANWHILE = {("v3.29.7/57-hep-traffic.before", "lo"): 1, ("v3.30.7/50-tier-default-pass.before", "lo"): 1}
LIVE = {
    "upgrade/1-v3.29.7": "cali_counters2",
    "upgrade/2-v3.30.7": "cali_counters3",
    "upgrade/3-v3.31.6": "cali_counters5",
    "upgrade/4-v3.32.1": "cali_counters6",
    "upgrade/5-v3.31.6-downgraded.before": "cali_counters5",
    "upgrade/5-v3.31.6-downgraded.after": "cali_counters5",
}


def rows_of(table):
    """Calico's table as (category, caption, cells); long captions go on in rows whose cells are empty."""
    rows, category = [], ""
    for line in table:
        first, caption, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        category = first or category
        if any(cells):
            rows.append([category, caption, cells])
        else:
            rows[-1][1] += f" {caption}"
    return rows


def tables_of(text):
    """Calico's tables by interface: {(category, caption): (tc ingress, tc egress, xdp)}, None for N/A."""
    tables, lines = {}, []
    for line in text.splitlines():
        if line.startswith("| ") and "CATEGORY" not in line:
            lines.append(line)
        elif line.startswith("dumped "):
            cells = {(row[0], row[1]): row[2] for row in rows_of(lines)}
            numbers = {row: tuple(None if one == "N/A" else int(one) for one in given) for row, given in cells.items()}
            tables[line.split()[1]], lines = numbers, []
    return tables


def snapshot_of(recording):
    """A snapshot of a recording; where several counter maps are pinned, with the knowledge of which is alive."""
    if recording.name not in LIVE:
        return recording.snapshot
    memory = Memory()
    memory.counters.proven = recording.bundle.map_info(LIVE[recording.name]).id
    return recording.fresh(memory)


def ours_of(snapshot):
    """The decoded table in the shape of Calico's."""
    table = snapshot.counters.get()
    rows = table.rows
    words = {ours: theirs for theirs, ours in CATEGORIES.items()}
    slots = [slot for slot in table.layout.slots if slot.category != "unknown"]
    return {
        link.name: {
            (words[slot.category], slot.caption): tuple(
                rows[link.ifindex, hook][slot.number] if (link.ifindex, hook) in rows else None for hook in range(3)
            )
            for slot in slots
        }
        for link in snapshot.links.get()
    }


def sums_of(snapshot):
    return snapshot.counters.get().rows


def test_no_recording_has_vanished():
    releases = {release: len(list(names)) for release, names in groupby(NAMES, lambda name: name.split("/")[0])}
    assert COUNTS == releases
    assert 116 == len(NAMES)
    assert 55 == sum((RECORDINGS / f"{pair}.before.tar.xz").exists() for pair in PAIRS)


def test_the_recordings_stay_small():
    assert sum(path.stat().st_size for path in RECORDINGS.rglob("*.tar.xz")) < 3 << 20


@law_of_recordings(NAMES)
def every_number_of_calicos_table_is_ours(recording):
    theirs = tables_of(recording.oracle["counters-dump.all.txt"])
    ours = ours_of(snapshot_of(recording))
    if recording.name == TRUNCATED:
        ours, theirs = ({key: one[key] for key in one if key != "cali86e35d8c298"} for one in (ours, theirs))
    for (where, interface), packets in MEANWHILE.items():
        if where == recording.name:
            ingress, egress, xdp = theirs[interface]["Total", "packets"]
            theirs[interface]["Total", "packets"] = (ingress, egress - packets, xdp)
    assert theirs == ours


@law_of_recordings(NAMES)
def every_recorded_entry_is_of_an_interface_that_is_there(recording):
    snapshot = snapshot_of(recording)
    assert {ifindex for ifindex, _ in sums_of(snapshot)} <= {link.ifindex for link in snapshot.links.get()}


def test_where_calicos_tool_cuts_to_32_bits_ours_is_whole():
    recording = Recording(TRUNCATED)
    snapshot = snapshot_of(recording)
    cut = tables_of(recording.oracle["counters-dump.all.txt"])["cali86e35d8c298"]
    whole = ours_of(snapshot)["cali86e35d8c298"]
    entries = dict(recording.bundle.map_dump("cali_counters6").entries())
    for slot in snapshot.counters.get().layout.slots:
        for hook in range(2):
            words = struct.unpack(f"<{2 * 27}Q", entries[struct.pack("<II", 19, hook)])
            copies = [words[slot.number], words[27 + slot.number]]
            row = next((row for row in whole if row[1] == slot.caption and CATEGORIES[row[0]] == slot.category), None)
            if row is not None:
                assert sum(copies) == whole[row][hook]
                assert sum(copy % (1 << 32) for copy in copies) == cut[row][hook]
    assert 2 * ((1 << 32) + 7) == whole["Total", "packets"][1]
    assert 14 == cut["Total", "packets"][1]


@law_of_recordings(NAMES)
def interface_state_is_what_calicos_tool_prints(recording):
    lines = recording.oracle["ifstate-dump.txt"].splitlines()
    theirs = {
        int(match["ifindex"]): (match["name"], sum(FLAGS[flag] for flag in match["flags"].split(",")))
        for match in map(STATE.fullmatch, filter(None, lines))
    }
    ours = {one.ifindex: (one.name, one.flags) for one in recording.snapshot.ifstate.get()}
    assert theirs
    assert theirs == ours


@law_of_pairs(PAIRS)
def two_snapshots_differ_by_what_was_seen_to_move(pair):
    before, after = (sums_of(one.snapshot) for one in (pair.before, pair.after))
    seen = {
        (int(match["ifindex"]), int(match["hook"])): {
            int(slot): int(change) for slot, change in re.findall(r"slot(\d+)([+-]\d+)", match["slots"])
        }
        for match in MOVED.finditer(pair.diff)
    }
    moved = {}
    for key, row in after.items():
        was = before.get(key, [0] * len(row))
        changes = {slot: now - then for slot, (now, then) in enumerate(zip(row, was, strict=True)) if now != then}
        if changes:
            moved[key] = changes
    assert seen == moved
    assert {(int(ifindex), int(hook)) for ifindex, hook in NEW.findall(pair.diff)} == after.keys() - before.keys()
    assert not before.keys() - after.keys()


@law_of_recordings([name for name in NAMES if not name.startswith("upgrade")])
def a_recorded_release_has_its_layout_and_its_only_maps(recording):
    snapshot = recording.snapshot
    layout = snapshot.counters.get().layout
    assert recording.release == recording.bundle.about["calico"]
    assert (SLOTS[recording.release], "builtin") == (len(layout.slots), layout.source)
    versions = (snapshot.counter_map.get(), snapshot.ifstate_map.get(), snapshot.rule_map.get())
    assert ["only"] * 3 == [one.choice.chosen_by for one in versions]
    assert [()] * 3 == [one.stale for one in versions]


PODS = {
    "calibf331a988cf": ("ns-a", "client"),
    "cali34769d6a557": ("ns-b", "server"),
    "cali14a81566bd7": ("ns-c", "plain"),
    "cali86e35d8c298": ("ns-d", "open"),
}


@law_of_recordings(NAMES)
def every_recorded_workload_is_its_pod_where_calico_says_so(recording):
    name, snapshot = recording.name, recording.snapshot
    workloads = [one for one in snapshot.endpoints.get().by_index.values() if one.kind == "workload"]
    interfaces = PODS.keys() - ({"cali86e35d8c298"} if name.endswith("42-pod-readd.before") else set())
    # v3.29 writes no endpoint status unless told to; of the downgraded node none was recorded.
    silent = "v3.29.7" in name or "downgraded" in name
    expected = {one: ("", "") if silent else PODS[one] for one in interfaces}
    assert expected == {one.interface: (one.namespace, one.pod) for one in workloads}
    assert all(one.addresses for one in workloads)
    assert () == snapshot.pods.get().problems
    assert 0 == snapshot.endpoints.get().mismatches


@law_of_recordings(NAMES)
def every_other_recorded_interface_is_a_host_interface(recording):
    by_index = recording.snapshot.endpoints.get().by_index
    assert {"workload", "host"} == {one.kind for one in by_index.values()}
    hosts = {one.interface for one in by_index.values() if one.kind == "host"}
    assert {"lo", "eth0", "bpfin.cali", "bpfout.cali"} == hosts
