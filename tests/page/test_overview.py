"""The node's page: what is wrong comes first, what is fine is folded, and rows are in the order that is asked for."""

import re

import pytest

from exporter.bpf.maps import MapDenied, MapDump, MapInfo
from exporter.page.views import Wanted, node_view
from tests.page.test_pages import HERE, HOSTILE, NOTHING_WANTED, SERVER


@pytest.fixture
def full_maps(make):
    """A node with a counter map and connection tracking of so many entries in 100."""

    def of(entries):
        info = MapInfo("cali_v4_ct4", 7, "cali_v4_ct4", "hash", 16, 88, 100, 0)
        counters = make.counters("cali_counters6", 60, {(1, 0): {0: 1, 4: 3}, (2, 0): {0: 1}})
        flows = MapDump(info, bytes(16 * entries), bytes(88 * entries))
        return make.node([counters, make.ifstate("cali_iface4", 40, {}), flows])

    return of


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (81, "full map fill conntrack (IPv4), cali_v4_ct4: 81 of 100 entries, 81%"),
        (51, "note map fill conntrack (IPv4), cali_v4_ct4: 51 of 100 entries, 51%"),
        (50, ""),
    ],
)
def test_a_map_that_is_more_than_half_full_comes_before_the_endpoints(
    full_maps, snapshot_at, html, parsed, entries, problem
):
    view = node_view(None, snapshot_at(full_maps(entries), 1), NOTHING_WANTED, failures={})
    text = parsed(html.node_page(view, NOTHING_WANTED)).text
    assert problem in text.partition("Endpoints that dropped packets")[0]
    assert ("To do: raise bpfMapSizeConntrack" in text) == (entries > 80)
    assert bool(problem) == any(one.subject == "map fill" for one in view.health.problems)
    assert not [one for one in view.health.notes if "cali_v4_ct4" in one.found]


def test_what_is_missing_and_what_failed_come_first(make, recorded, snapshot_at, html, parsed):
    source = make.like(recorded(f"{HERE}.after"))
    source.maps["cali_iface4"] = MapDenied("cali_iface4 cannot be opened: give the exporter CAP_BPF")
    failures = {"counters": None, "rules": "no rules could be read"}
    view = node_view(None, snapshot_at(source, 1), NOTHING_WANTED, failures=failures)
    text = parsed(html.node_page(view, NOTHING_WANTED)).text
    first = text.partition("Endpoints that dropped packets")[0]
    assert "missing interface state cali_iface4 cannot be opened: give the exporter CAP_BPF" in first
    assert "failed rules no rules could be read" in first
    assert first.index("missing interface state") < first.index("failed rules")


def test_health_that_is_fine_is_one_line(html, pair, parsed):
    view = node_view(*pair, NOTHING_WANTED, failures={"counters": None, "rules": None})
    body = html.node_page(view, NOTHING_WANTED).decode()
    assert "2 of 2 collectors succeeded" in parsed(body.encode()).text
    assert '<details id="health-tables">' in body
    assert not view.health.problems
    assert 'class="problems"' not in body


def test_what_drops_nothing_is_folded_and_counted_by_endpoint(html, pair, parsed):
    view = node_view(*pair, NOTHING_WANTED)
    assert all(row.cumulative.drops for row in view.rows)
    assert not any(row.cumulative.drops for row in view.quiet)
    dropping = {row.endpoint.title for row in view.rows}
    quiet = {row.endpoint.title for row in view.quiet} - dropping
    body = html.node_page(view, NOTHING_WANTED)
    assert f"{len(quiet)} endpoints drop nothing" in parsed(body).text
    assert b'<details id="quiet">' in body


def test_a_reason_has_its_rate_and_total_and_leads_to_its_rows_and_meaning(html, pair, parsed, node_text):
    page = parsed(html.node_page(node_view(*pair, NOTHING_WANTED), NOTHING_WANTED))
    assert "policy 2.5/s 10" in page.text
    assert "?reason=policy" in page.attributes
    assert "policy : a rule, a tier's end or a missing profile match denied them." in node_text(reason="policy")


SORTED = [
    ("endpoint", lambda row: row.endpoint.title),
    ("direction", lambda row: row.direction),
    ("-rate", lambda row: row.recent.drops),
    ("-flows", lambda row: row.recent.flows),
    ("-packets", lambda row: row.recent.packets),
    ("-dropped", lambda row: row.cumulative.drops),
    ("reasons", lambda row: next(iter(row.cumulative.dropped), "")),
]


@pytest.mark.parametrize(("sort", "value"), SORTED)
def test_each_column_sorts_in_both_ways(pair, sort, value):
    other = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
    for asked, descending in ((sort, False), (other, True)):
        view = node_view(*pair, Wanted(sort=asked))
        for rows in (view.rows, view.quiet):
            found = [value(row) for row in rows]
            assert found == sorted(found, reverse=descending)


@pytest.mark.parametrize("asked", ["", "-", "--rate", "nothing", HOSTILE])
def test_an_order_that_does_not_exist_is_the_usual_one(pair, asked):
    wanted = Wanted.of({"sort": asked})
    assert Wanted() == wanted
    assert node_view(*pair, wanted).rows == node_view(*pair, Wanted()).rows


def test_a_header_leads_to_its_order_and_then_to_the_reverse(html, pair):
    def header(sort):
        wanted = Wanted(reason="policy", sort=sort)
        body = html.node_page(node_view(*pair, wanted), wanted).decode()
        return re.search(r'<th scope="col" role="columnheader" class="number"([^>]*)><a href="([^"]*)">Dropped<', body)

    assert ("", "?reason=policy&amp;sort=dropped") == header("rate").groups()
    assert (' aria-sort="descending"', "?reason=policy&amp;sort=-dropped") == header("dropped").groups()
    assert (' aria-sort="ascending"', "?reason=policy&amp;sort=dropped") == header("-dropped").groups()


def test_the_pages_say_how_to_see_peers(node_text, endpoint_page, parsed):
    assert "calico-bpf-exporter why --pod NAMESPACE/POD --packets" in node_text()
    text = parsed(endpoint_page(SERVER)).text
    assert f"calico-bpf-exporter why --interface {SERVER} --packets" in text
    assert "kubectl calico-bpf why server -n ns-b --packets" in text
