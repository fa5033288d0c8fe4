"""`counters`: the table a person reads and the JSON a program reads tell the same, droppers first."""

import json
import re

import pytest

from exporter.calico.counters import SLOTS

HERE = "v3.32.1/05-eot-egress-deny.after"
XDP = "v3.32.1/57-hep-traffic.after"
WORDS = {"total": "entered", "nat_collision": "NAT collision"}
PER_FLOW = {("accepted", "policy"), ("accepted", "failsafe")}
HOOKS = ("tc_ingress", "tc_egress", "xdp")


def tables(text):
    """{title: {(what, caption): numbers}} of what was printed, in its order."""
    found, title = {}, ""
    for line in text.splitlines():
        if not line.startswith(" "):
            title = line
            found[title] = {}
        elif not line.startswith("  WHAT") and line.split()[0] not in HOOKS:
            what, *numbers, caption = re.split(" {2,}", line.strip())
            found[title][what, caption] = numbers
    return {title: rows for title, rows in found.items() if rows}


def from_json(endpoint):
    """The same rows from one endpoint of the JSON; XDP is shown of a host, and where it counts."""
    captions = {slot.number: slot.caption for slot in SLOTS}
    counters = {
        hook: {one["slot"]: one for one in entry["counters"]} if entry else None
        for hook, entry in endpoint["hooks"].items()
        if entry or hook != "xdp" or endpoint["kind"] != "workload"
    }
    slots = {number: one for entry in counters.values() if entry for number, one in entry.items()}
    rows = {}
    for number, one in slots.items():
        cells = ["N/A" if entry is None else str(entry[number]["value"]) for entry in counters.values()]
        flows = (one["category"], one["reason"]) in PER_FLOW and not endpoint["hooks"]["xdp"]
        word = "accepted flows" if flows else WORDS.get(one["category"], one["category"])
        if one["category"] != "unknown" or set(cells) - {"0", "N/A"}:
            rows[f"{word}: {one['reason']}" if one["reason"] else word, captions[number]] = cells
    return rows


@pytest.fixture
def show(run, recording):
    """What `counters` prints about a recording."""

    def ask(name, *arguments, **more):
        result = run("counters", "--bundle", recording(name), *arguments, **more)
        assert (0, "") == (result.exit_code, result.stderr)
        return result.stdout

    return ask


@pytest.mark.parametrize(
    "name",
    [
        "v3.29.7/05-eot-egress-deny.after",
        "v3.29.7/57-hep-traffic.after",
        "v3.30.7/05-eot-egress-deny.after",
        "v3.31.6/05-eot-egress-deny.after",
        "v3.31.6/65-qos.after",
        HERE,
        XDP,
    ],
)
def test_table_and_json_have_the_same_numbers_in_the_same_order(show, name):
    printed = tables(show(name))
    endpoints = json.loads(show(name, "-o", "json"))["endpoints"]
    shown = [one for one in endpoints if any(one["hooks"].values())]
    assert [from_json(one) for one in shown] == list(printed.values())
    for title, one in zip(printed, shown, strict=True):
        assert one["interface"] in title
        assert f"ifindex {one['ifindex']}" in title


def test_the_table_of_a_pod_is_titled_with_its_name_and_addresses(show):
    (title,) = tables(show(HERE, "--pod", "client"))
    assert "ns-a/client  calibf331a988cf  (ifindex 5, workload, 10.65.0.2, fd00:65::2)" == title


def headings(text):
    """The directions and the hooks above the numbers."""
    _, directions, hooks, *_ = text.splitlines()
    return [word for word in directions.split() if word.endswith("BOUND")], hooks.split()


def test_columns_tell_the_direction_as_the_endpoint_sees_it(show):
    pod, host = show(HERE, "--pod", "client"), show(HERE, "--interface", "eth0")
    assert (["OUTBOUND", "INBOUND"], ["tc_ingress", "tc_egress"]) == headings(pod)
    assert (["INBOUND", "OUTBOUND", "INBOUND"], ["tc_ingress", "tc_egress", "xdp"]) == headings(host)


@pytest.mark.parametrize("name", ["v3.29.7/05-eot-egress-deny.after", "v3.31.6/65-qos.after", HERE, XDP])
def test_those_who_drop_most_come_first(show, name):
    dropped = [
        sum(
            int(cell)
            for (what, _), cells in rows.items()
            if what.startswith("dropped: ")
            for cell in cells
            if cell != "N/A"
        )
        for rows in tables(show(name)).values()
    ]
    assert dropped == sorted(dropped, reverse=True)
    assert dropped[0] > 0


def test_a_hook_without_an_entry_is_not_available_and_not_zero(show):
    (rows,) = tables(show("v3.29.7/05-eot-egress-deny.after", "--interface", "cali86e35d8c298")).values()
    assert {"N/A"} == {cells[1] for cells in rows.values()}
    assert ["2", "N/A"] == rows["entered", "packets"]


def test_xdp_is_shown_where_it_counts(show):
    (rows,) = tables(show(XDP, "--interface", "eth0")).values()
    assert ["1", "0", "3"] == rows["accepted: failsafe", "by failsafe"]
    assert ["5", "0", "6"] == rows["dropped: policy", "by policy"]


@pytest.mark.parametrize("name", ["v3.29.7/05-eot-egress-deny.after", HERE, XDP])
def test_the_last_lines_are_the_total_and_what_was_hidden(show, name):
    text = show(name)
    told = json.loads(show(name, "-o", "json"))
    total = next(line for line in text.splitlines() if " packets dropped: " in line)
    assert f"{len(told['endpoints'])} endpoints, {sum(told['dropped'].values())} packets dropped: " in total
    assert ", ".join(f"{reason} {packets}" for reason, packets in told["dropped"].items()) in total
    assert list(told["dropped"].values()) == sorted(told["dropped"].values(), reverse=True)
    hidden = len(told["endpoints"]) - len(tables(text))
    assert bool(hidden) == ("not shown: " in text)


def test_nonzero_hides_zero_rows_and_says_how_many(show):
    everything, nonzero = tables(show(XDP)), show(XDP, "--nonzero")
    shown = tables(nonzero)
    assert all(set(cells) - {"0", "N/A"} for rows in shown.values() for cells in rows.values())
    for title, rows in everything.items():
        assert {key: cells for key, cells in rows.items() if set(cells) - {"0", "N/A"}} == shown.get(title, {})
    hidden = sum(map(len, everything.values())) - sum(map(len, shown.values()))
    assert f"{len(everything) - len(shown)} endpoints without a counter to show, {hidden} zero rows" in nonzero


def test_nonzero_hides_zeros_from_json_too(show):
    told = json.loads(show(XDP, "--nonzero", "-o", "json"))
    values = [
        one["value"]
        for endpoint in told["endpoints"]
        for entry in endpoint["hooks"].values()
        if entry
        for one in entry["counters"]
    ]
    assert values
    assert all(values)


def test_nothing_dropped_is_said_too(show):
    text = show(HERE, "--interface", "lo")
    assert "1 endpoint, 0 packets dropped\n" in text
    assert "not shown" not in text


def test_json_tells_the_map_and_the_evidence_for_it(show):
    told = json.loads(show(HERE, "-o", "json"))
    assert ("cali_counters6", "only", 27) == (told["map"], told["chosen_by"], told["slots"])


def test_json_leaves_a_hook_without_an_entry_null(show):
    told = json.loads(show("v3.29.7/05-eot-egress-deny.after", "-o", "json", "--interface", "cali86e35d8c298"))
    assert ["tc_ingress"] == [hook for hook, entry in told["endpoints"][0]["hooks"].items() if entry]
    assert "outbound" == told["endpoints"][0]["hooks"]["tc_ingress"]["direction"]


# Once rich cut cells that do not fit, so on 80 columns (which is also what a pipe gets) a number of 18 digits, and
# on narrower terminals one of fewer, is printed without its last digits: exporter/cli/counters_table.py, _table.
@pytest.mark.parametrize("columns", ["80", "40"])
@pytest.mark.parametrize("value", [2**64 - 1, 2**40])
def test_a_number_is_never_shortened(run, changed, counted, columns, value):
    bundle = changed(HERE, counted(value))
    result = run("counters", "--bundle", bundle, "--pod", "client", env={"COLUMNS": columns})
    assert 2 * 27 == len(re.findall(rf"(?<!\d){value}(?!\d)", result.stdout.rpartition("dropped: ")[0]))


def test_json_numbers_are_whole_at_the_largest(run, changed, counted):
    result = run("counters", "-o", "json", "--bundle", changed(HERE, counted(2**64 - 1)), "--pod", "client")
    told = json.loads(result.stdout)
    values = {one["value"] for entry in told["endpoints"][0]["hooks"].values() if entry for one in entry["counters"]}
    assert {2**64 - 1} == values
    assert 2 * (2**64 - 1) == told["dropped"]["policy"]


@pytest.mark.parametrize("arguments", [[], ["-o", "json"], ["--interface", "eth0"]])
def test_an_undecided_map_is_a_sentence_and_no_guess(run, recording, arguments):
    result = run("counters", "--bundle", recording("upgrade/2-v3.30.7"), *arguments)
    assert (1, "") == (result.exit_code, result.stdout)
    assert "undecided which of cali_counters2, cali_counters3 Calico uses" in result.stderr
    assert 1 == len(result.stderr.splitlines())


def test_a_layout_file_names_a_slot_in_the_table(run, changed, tmp_path):
    def fifteen(members):
        info = json.loads(members["maps/cali_counters6/info.json"])
        info["info"]["value_size"] = 120
        entries = len(members["maps/cali_counters6/keys"]) // 8
        return {
            "maps/cali_counters6/info.json": json.dumps(info).encode(),
            "maps/cali_counters6/values": (7).to_bytes(8, "little") * (15 * info["copies"] * entries),
        }

    layout = tmp_path / "layout.yaml"
    layout.write_text("when_slots: 15\nslots: {14: {category: accepted, reason: egress_gateway}}", encoding="utf-8")
    bundle = changed(HERE, fifteen)
    told = run("counters", "--bundle", bundle, "--interface", "eth0", "--calico.layout-file", layout)
    (rows,) = tables(told.stdout).values()
    assert ("accepted: egress_gateway", "egress gateway") in rows
    assert ("unknown: 13", "slot 13") in rows
