"""The pages show what the commands show, and a name with markup in it stays text."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from exporter.bpf.maps import MapDenied, MapDump, MapInfo
from exporter.calico.counters import DROPPED
from exporter.diagnosis.explain import explain
from exporter.diagnosis.rules import merged, programs_of
from exporter.diagnosis.sentences import sentences
from exporter.node import NodeError
from exporter.page.history import History
from exporter.page.html import Html, address, per_second
from exporter.page.views import MAX_ROWS, Wanted, endpoint_named, endpoint_view, node_view
from exporter.snapshot.snapshot import Part

HERE = "v3.32.1/02-ingress-deny"
SERVER, CLIENT = "cali34769d6a557", "calibf331a988cf"
# Without a slash, which ends a namespace.
HOSTILE = "<script>alert(1)<img src=x onerror=alert(2)>\"'><!--&amp;{{7*7}}{%x%}\u202e\x1b[2J\n"
TEMPLATES = Path(__file__).parents[2] / "exporter" / "page" / "templates"
NOTHING_WANTED = Wanted()


def test_the_node_page_names_who_drops_with_direction_reason_and_rate(node_text):
    assert "ns-b/server cali34769d6a557 inbound 2.5" in node_text()
    assert re.search(r"2\.5 packets dropped per second in the last 4 s, \d+ since the counters began", node_text())


def test_filters_leave_what_fits(pair):
    def shown(**wanted):
        view = node_view(*pair, Wanted(**wanted))
        return {row.endpoint.title for row in (*view.rows, *view.quiet)}

    everybody = shown()
    assert {"ns-a/client", "ns-b/server"} <= everybody
    assert {"ns-b/server"} == shown(namespace="ns-b")
    assert {"ns-b/server"} == shown(pod="erv")
    assert set() == shown(namespace="ns-a", pod="server")
    dropping = {row.endpoint.title for row in node_view(*pair, Wanted()).rows if row.cumulative.drops}
    assert dropping == shown(reason="policy")
    assert set() == shown(reason="no_such_reason")
    assert shown(reason="policy") < everybody


def test_the_filter_form_offers_what_there_is_and_keeps_what_was_chosen(html, pair):
    wanted = Wanted("ns-b", "ser", "policy")
    body = html.node_page(node_view(*pair, wanted), wanted).decode()
    assert '<option value="ns-b" selected>ns-b</option>' in body
    assert '<option value="ns-a">ns-a</option>' in body
    assert 'name="pod" value="ser"' in body
    assert "<option selected>policy</option>" in body


def test_no_more_rows_than_a_browser_bears_and_the_page_says_how_many_are_left(make, snapshot_at, html, parsed):
    rows = {(number, 0): {4: number} for number in range(1, MAX_ROWS + 11)}
    source = make.node([make.counters("cali_counters6", 60, rows), make.ifstate("cali_iface4", 40, {})])
    now = snapshot_at(source, 1)
    view = node_view(None, now, NOTHING_WANTED)
    assert (MAX_ROWS, 10) == (len(view.rows), view.left_out)
    assert f"ifindex:{MAX_ROWS + 10}" == view.rows[0].endpoint.interface
    assert "10 more, which drop less, are not shown" in parsed(html.node_page(view, NOTHING_WANTED)).text


def test_a_map_that_is_more_than_half_full_is_shown_beside_those_that_always_are(make, snapshot_at, html, parsed):
    def flows(name, entries):
        info = MapInfo(name, 7, name, "lru_hash", 16, 88, 100, 0)
        return MapDump(info, bytes(16 * entries), bytes(88 * entries))

    maps = [make.counters("cali_counters6", 60, {(1, 0): {0: 1}}), make.ifstate("cali_iface4", 40, {})]
    source = make.node([*maps, flows("cali_v4_ct4", 51), flows("cali_v6_ct4", 50)])
    view = node_view(None, snapshot_at(source, 1), NOTHING_WANTED)
    assert [("conntrack (IPv4)", 51, 100)] == [
        (one.datum, one.entries, one.max_entries) for one in view.health.maps[2:]
    ]
    assert "conntrack (IPv4) cali_v4_ct4 51 100" in parsed(html.node_page(view, NOTHING_WANTED)).text


@pytest.mark.parametrize("name", ["cali_counters6", "cali_iface4", "cali_rule_ctrs2"])
@pytest.mark.parametrize("page", ["node", "endpoint"])
def test_a_map_that_cannot_be_read_is_a_sentence_and_the_rest_is_there(
    make, recorded, snapshot_at, html, parsed, name, page
):
    source = make.like(recorded(f"{HERE}.after"))
    source.maps[name] = MapDenied(f"{name} cannot be opened: give the exporter CAP_BPF")
    now = snapshot_at(source, 1)
    if page == "node":
        text = parsed(html.node_page(node_view(None, now, NOTHING_WANTED), NOTHING_WANTED)).text
        assert "cannot be opened" in text
        assert ("There are no counters to show" in text) == (name == "cali_counters6")
        assert ("ns-b/server" in text) == (name != "cali_counters6")
    elif name != "cali_counters6":
        text = parsed(html.endpoint_page(endpoint_view(None, now, endpoint_named(now, SERVER)))).text
        assert "dropped policy" in text
        assert "NetworkPolicy" in text


def test_a_policy_folder_that_cannot_be_read_is_a_sentence_on_the_endpoints_page(
    make, recorded, snapshot_at, html, parsed
):
    source = make.like(recorded(f"{HERE}.after"))
    source.facts["policy_files"] = NodeError("/var/run/calico/bpf/policy could not be read: Permission denied")
    now = snapshot_at(source, 1)
    text = parsed(html.endpoint_page(endpoint_view(None, now, endpoint_named(now, SERVER)))).text
    assert "It could not be read: /var/run/calico/bpf/policy could not be read: Permission denied." in text
    assert "dropped policy" in text


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"run_dir": NodeError("/x is not there")}, "/x is not there"),
        ({}, "Calico has written no policy file for this endpoint"),
        (None, "none of its 4 policy files can be read"),
    ],
)
def test_the_endpoints_page_tells_why_it_has_no_policy(make, recorded, snapshot_at, html, parsed, facts, sentence):
    node = make.like(recorded(f"{HERE}.after"))
    files = node.facts["policy_files"]
    broken = {name: b"{" if name.startswith(SERVER) else one for name, one in files.files.items()}
    node.facts |= {"policy_files": make.folder(**broken) if facts is None else make.folder(), **(facts or {})}
    now = snapshot_at(node, 1)
    assert sentence in parsed(html.endpoint_page(endpoint_view(None, now, endpoint_named(now, SERVER)))).text


def test_the_endpoints_page_says_what_why_says(pair, endpoint_page, parsed):
    before, now = pair
    text = parsed(endpoint_page(SERVER)).text
    said = list(sentences(explain(before, now, endpoint_named(now, SERVER)), 4.0))
    more = "  More: "
    assert len(said) > 5
    assert [] == [line for line, _ in said if " ".join(line.split()) not in text and not line.startswith(more)]
    links = [line.removeprefix(more) for line, _ in said if line.startswith(more)]
    assert links
    assert set(links) <= set(parsed(endpoint_page(SERVER)).attributes)


def test_the_endpoints_page_has_every_counter_that_is_not_zero_with_its_link(pair, endpoint_page, parsed):
    before, now = pair
    endpoint = endpoint_named(now, SERVER)
    view, page = endpoint_view(before, now, endpoint), parsed(endpoint_page(SERVER))
    table = now.counters.get()
    mine = [row for (ifindex, _), row in table.rows.items() if ifindex == endpoint.ifindex]
    expected = {slot.number for slot in table.layout.slots if any(row[slot.number] for row in mine)}
    assert expected == {row.slot.number for row in view.counters}
    assert sum(map(sum, mine)) == sum(sum(row.cumulative) for row in view.counters)
    dropped = [slot.reason for slot in table.layout.slots if slot.category == DROPPED and slot.number in expected]
    assert dropped
    assert set(dropped) <= {link.rpartition("#")[2] for link in page.attributes if "reasons.md#" in link}


def test_the_endpoints_page_has_every_rule_with_its_hits(pair, endpoint_page, parsed):
    now = pair[1]
    programs = merged(programs_of(now, endpoint_named(now, SERVER), now.rule_hits.get()))
    text = parsed(endpoint_page(SERVER)).text
    rules = [rule for one in programs for tier in one.tiers for policy in tier.policies for rule in policy.rules]
    assert any(rule.hits for rule in rules)
    for rule in rules:
        hits = "-" if rule.hits is None else f"{rule.hits:,}"
        assert re.search(rf"{rule.position} {rule.action} {hits} [-\d,]+ {re.escape(rule.match)}", text), rule


def test_an_endpoint_that_never_counted_has_a_page(make, snapshot_at, html, parsed):
    states = {9: ("cali9", 0x7)}
    source = make.node(
        [make.counters("cali_counters6", 60, {}), make.ifstate("cali_iface4", 40, states)],
        links=[make.link(9, "cali9")],
    )
    now = snapshot_at(source, 1)
    text = parsed(html.endpoint_page(endpoint_view(None, now, endpoint_named(now, "cali9")))).text
    assert "Nothing was ever counted here." in text
    assert "every packet there is dropped and not counted" in text


def test_leftovers_that_nothing_knows_have_a_page_too(make, snapshot_at):
    source = make.node([make.counters("cali_counters6", 60, {(44, 0): {4: 2}}), make.ifstate("cali_iface4", 40, {})])
    snapshot = snapshot_at(source, 1)
    assert 44 == endpoint_named(snapshot, "ifindex:44").ifindex
    assert endpoint_named(snapshot, "ifindex:45") is None


def test_every_page_has_the_same_tags_whatever_names_hold(make, recorded, snapshot_at, parsed):
    pages = {}
    for kind, edit in (("tame", str), ("hostile", hostile)):
        now = snapshot_at(renamed(make, recorded, edit), 1)
        html = Html(edit("node-1"), "/metrics")
        view = node_view(None, now, NOTHING_WANTED, history_of(now), {"counters": edit("broken")})
        health = {
            name: [replace(one, found=edit(one.found), remedy=edit("do")) for one in getattr(view.health, name)]
            for name in ("problems", "notes", "findings")
        }
        maps = [replace(one, pin=edit(one.pin)) for one in view.health.maps]
        view = replace(view, health=replace(view.health, **health, maps=maps))
        shown = endpoint_view(None, now, endpoint_named(now, SERVER), None, history_of(now))
        pages[kind] = [
            parsed(html.node_page(view, Wanted(pod=edit("x"), reason=edit("y")))),
            parsed(html.endpoint_page(shown)),
            parsed(html.error_page(edit("error"))),
        ]
    for tame, odd in zip(pages["tame"], pages["hostile"], strict=True):
        assert tame.shape == odd.shape
        assert "<script>alert(1)<img" in odd.text
        assert not {"\u202e", "\x1b"} & set("".join([odd.text, *odd.attributes]))


def history_of(now):
    """What is recorded when all that this snapshot counts was dropped within five seconds."""
    history = History(0.0, 0.0)
    history.add(replace(now, counters=Part(replace(now.counters.get(), rows={})), at=now.at - 5), now)
    return history


def hostile(text):
    return f"{text}{HOSTILE}"


def renamed(make, recorded, edit):
    """The recorded node with every name of a pod, namespace or policy edited."""
    source = make.like(recorded(f"{HERE}.after"))
    status, files = source.facts["endpoint_status"], source.facts["policy_files"]
    named = {
        f"k8s {quote(edit('ns'), safe='')}%2F{quote(edit('pod'), safe='')}{number} eth0": text
        for number, text in enumerate(status.files.values())
    }
    source.facts["endpoint_status"] = replace(status, files=named)
    name = edit("gate").encode("unicode_escape").replace(b'"', rb"\\\"").replace(rb"\x1b", b"?").replace(rb"\n", b"?")
    changed = {file: text.replace(b"ingress-rules", name) for file, text in files.files.items()}
    source.facts["policy_files"] = replace(files, files=changed)
    return source


def test_an_interface_of_any_name_leads_to_its_page():
    assert "?interface=cali%3Cb%3E%26%22+%27" == address(interface="cali<b>&\" '")
    assert "?" == address(namespace="")


def test_style_and_script_are_allowed_by_what_they_are(html, parsed):
    policy = dict(html.headers)["Content-Security-Policy"]
    for name, kind in (("page.css", "style-src"), ("page.js", "script-src")):
        text = (TEMPLATES / name).read_bytes()
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
        assert text.decode() in html.error_page("x").decode()
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")
    page = parsed(html.error_page("x"))
    assert [] == [tag for tag in page.shape if any(name.startswith("on") or name == "style" for name in tag[1:])]


@pytest.mark.parametrize(
    ("rate", "said"),
    [(None, "-"), (0, "0"), (0.0333, "0.033"), (1.0, "1"), (9.949, "9.9"), (12.4, "12"), (123456.7, "123,457")],
)
def test_a_rate_has_as_many_digits_as_a_person_reads(rate, said):
    assert said == per_second(rate)
