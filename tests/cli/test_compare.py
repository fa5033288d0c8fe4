"""`counters` of two snapshots: `--diff`, `--watch`, `--top` and two bundles show what was counted in between."""

import json
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from exporter.bpf.maps import MapMissing
from exporter.cli import snapshots
from tests.cli.changing_node import ChangingNode
from tests.cli.conftest import run_program
from tests.cli.edits import added, edits, failing, made_at, removed, renamed, renumbered, without
from tests.recorded import PAIRS, law_of_pairs

ROOT = Path(__file__).parents[2]
FELL = "v3.32.1/54-cli-32bit-truncation"
HERE = "v3.32.1/02-ingress-deny.before"
MOVED = re.compile(r"ifindex=(?P<ifindex>\d+) hook=(?P<hook>\d):(?P<slots>(?: slot\d+[+-]\d+)+)")
HOOKS = ("tc_ingress", "tc_egress", "xdp")
CLIENT, SERVER, PLAIN = 5, 7, 9
NAMES = {CLIENT: "calibf331a988cf", SERVER: "cali34769d6a557", PLAIN: "cali14a81566bd7"}


@pytest.fixture
def compare(run, changed):
    """What `counters` says of a recorded node and the same node after these edits."""

    def ask(*arguments, then=(), begin=(), **more):
        bundles = [word for one in (begin, then) for word in ("--bundle", changed(HERE, edits(*one)))]
        return run("counters", *bundles, *arguments, **more)

    return ask


@pytest.fixture
def changing_node(monkeypatch, changed):
    """A node whose snapshots are those of a recorded node after the next edits; then Ctrl-C is pressed."""

    def of(*several):
        frames = [one if isinstance(one, BaseException) else changed(HERE, edits(*one)) for one in several]
        one = ChangingNode(*frames)
        monkeypatch.setattr(snapshots.time, "sleep", one.wait)
        monkeypatch.setattr(snapshots, "open_source", one.open_source)
        return one

    return of


def told(result):
    """The JSON of a run in which nothing went wrong."""
    assert (0, "") == (result.exit_code, result.stderr)
    return json.loads(result.stdout)


def counted(answer, what="count"):
    """{(interface, hook, slot): count} of the JSON."""
    rows = ((endpoint["interface"], one) for endpoint in answer["endpoints"] for one in endpoint["counted"])
    return {(name, one["hook"], one["slot"]): one[what] for name, one in rows}


# Two bundles.


@law_of_pairs([pair for pair in PAIRS if pair != FELL])
def two_bundles_show_the_counters_that_were_seen_to_move(pair):
    bundles = [word for one in (pair.before, pair.after) for word in ("--bundle", one.path)]
    answer = told(run_program("counters", "-o", "json", *bundles))
    seen = {}
    for match in MOVED.finditer(pair.diff):
        for slot, by in re.findall(r"slot(\d+)\+(\d+)", match["slots"]):
            seen[int(match["ifindex"]), HOOKS[int(match["hook"])], int(slot)] = int(by)
    index = {one["interface"]: one["ifindex"] for one in answer["endpoints"]}
    assert seen == {(index[name], *rest): count for (name, *rest), count in counted(answer).items()}
    drops = [one["count"] for rows in answer["endpoints"] for one in rows["counted"] if one["category"] == "dropped"]
    assert sum(drops) == sum(answer["dropped"].values())


PER_FLOW = {("accepted", "policy"), ("accepted", "failsafe")}
WORDS = {"total": "entered", "nat_collision": "NAT collision"}


def rows(text):
    """(names, what, direction, hook, count, rate if there is one) of each row of the table."""
    names = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            names = line
        elif not line.startswith("  WHAT"):
            yield names, *re.split(" {2,}", line.strip())


@pytest.mark.parametrize("pair", ["v3.29.7/57-hep-traffic", "v3.31.6/65-qos", "v3.32.1/57-hep-traffic", FELL])
def test_the_table_and_the_json_say_the_same_in_the_same_order(run, recording, pair):
    bundles = [word for when in ("before", "after") for word in ("--bundle", recording(f"{pair}.{when}"))]
    text = run("counters", *bundles).stdout
    answer = told(run("counters", "-o", "json", *bundles))
    expected = []
    for endpoint in answer["endpoints"]:
        names = f"{endpoint['namespace']}/{endpoint['pod']}  " if endpoint["pod"] else ""
        for one in endpoint["counted"]:
            flows = (one["category"], one["reason"]) in PER_FLOW and one["hook"] != "xdp"
            word = "accepted flows" if flows else WORDS.get(one["category"], one["category"])
            what = f"{word}: {one['reason']}" if one["reason"] else word
            row = (f"{names}{endpoint['interface']}", what, one["direction"], one["hook"], str(one["count"]))
            expected.append(row)
    assert expected == list(rows(text))
    packets = sum(answer["dropped"].values())
    assert re.search(rf"^\d+ endpoints? of \d+ counted, {packets} packets dropped(: .*)?$", text.splitlines()[-1])


def test_between_a_bundle_and_itself_nothing_was_counted(compare):
    assert "0 endpoints of 7 counted, 0 packets dropped\n" == compare().stdout
    assert {"seconds": None, "endpoints": [], "dropped": {}} == told(compare("-o", "json"))


def test_who_dropped_most_in_between_comes_first_and_top_leaves_the_others_out(compare):
    then = [added(CLIENT, 0, 4, 3), added(SERVER, 1, 4, 5), added(PLAIN, 0, 0, 1000)]
    answers = [told(compare("-o", "json", *top, then=then)) for top in ([], ["--top", "2"], ["--top", "1"])]
    names = [[one["interface"] for one in answer["endpoints"]] for answer in answers]
    assert [NAMES[SERVER], NAMES[CLIENT], NAMES[PLAIN]] == names[0]
    assert [names[0][:2], names[0][:1]] == names[1:]
    assert [{"policy": 8}, {"policy": 8}, {"policy": 5}] == [answer["dropped"] for answer in answers]


def test_counters_that_fell_show_what_was_counted_since_and_say_so(compare):
    begin = [added(SERVER, 0, 0, 1000)]
    sentence = (
        f"ns-b/server ({NAMES[SERVER]}, ifindex 7) was reset at tc_ingress (outbound): what it counted is since then"
    )
    assert sentence in compare(begin=begin).stdout.splitlines()
    (endpoint,) = told(compare("-o", "json", begin=begin))["endpoints"]
    assert (["tc_ingress"], "") == (endpoint["reset"], endpoint["fate"])
    assert all(one["count"] > 0 for one in endpoint["counted"])


def test_an_interface_that_came_or_went_is_said(compare):
    name = f"ns-b/server ({NAMES[SERVER]}, ifindex 7)"
    came, went = compare(begin=[removed(SERVER)]), compare(then=[removed(SERVER)])
    assert f"{name} appeared in between: what it counted is since then" in came.stdout.splitlines()
    assert f"{name} vanished in between: what it counted last is not known" in went.stdout.splitlines()
    answers = [told(compare("-o", "json", **{which: [removed(SERVER)]})) for which in ("begin", "then")]
    assert [["appeared"], ["vanished"]] == [[one["fate"] for one in answer["endpoints"]] for answer in answers]
    assert [] == answers[1]["endpoints"][0]["counted"]


def test_a_pod_made_again_under_its_name_came_and_went(compare):
    lines = compare(then=[renumbered(SERVER, 27)]).stdout.splitlines()
    assert 1 == sum("ifindex 27) appeared in between" in line for line in lines)
    assert 1 == sum("ifindex 7) vanished in between" in line for line in lines)


def test_an_entry_that_is_gone_is_said_and_counts_nothing(compare):
    answer = told(compare("-o", "json", then=[without(CLIENT, 0)]))
    assert [(["tc_ingress"], [])] == [(one["lost"], one["counted"]) for one in answer["endpoints"]]


@pytest.mark.parametrize("command", [["counters"], ["counters", "-o", "json"], ["why", "--interface", NAMES[SERVER]]])
def test_bundles_of_two_layouts_are_a_sentence(run, recording, command):
    bundles = [recording(f"{release}/05-eot-egress-deny.after") for release in ("v3.31.6", "v3.32.1")]
    result = run(*command, "--bundle", bundles[0], "--bundle", bundles[1])
    assert (1, "") == (result.exit_code, result.stdout)
    assert "another layout between the two snapshots: try again\n" in result.stderr
    assert 1 == len(result.stderr.splitlines())


NOON = "2026-01-02T12:00:00+00:00"


@pytest.mark.parametrize(
    ("then", "seconds"),
    [("2026-01-02T12:00:10+00:00", 10), ("2026-01-02T13:30:00+01:00", 1800), ("2026-01-02T12:00:00.5+00:00", 0.5)],
)
def test_the_time_between_two_bundles_makes_rates(compare, then, seconds):
    when = {"begin": [made_at(NOON)], "then": [made_at(then), added(SERVER, 1, 4, 5)]}
    answer = told(compare("-o", "json", **when))
    assert seconds == answer["seconds"]
    assert {(NAMES[SERVER], "tc_egress", 4): 5 / seconds} == counted(answer, "per_second")
    ((_, *row),) = rows(compare(**when).stdout)
    assert ["dropped: policy", "inbound", "tc_egress", "5", f"{5 / seconds:.3g}/s"] == row


@pytest.mark.parametrize("then", [NOON, "", "yesterday", "9999-99-99"])
def test_without_a_time_that_passed_there_are_no_rates(compare, then):
    when = {"begin": [made_at(NOON)], "then": [made_at(then), added(SERVER, 1, 4, 5)]}
    answer = told(compare("-o", "json", **when))
    assert (None, {None}) == (answer["seconds"], set(counted(answer, "per_second").values()))
    assert not re.search(r"\d/s", compare(**when).stdout)


def test_bundles_in_the_wrong_order_are_wrong_usage(compare):
    result = compare(begin=[made_at(NOON)], then=[made_at("2026-01-02T11:59:59+00:00")])
    assert (2, True) == (result.exit_code, "the first bundle is the later one" in result.stderr)


def test_numbers_are_whole_at_the_largest(compare):
    then = [added(SERVER, 1, 4, (1 << 62) + 1)]
    assert {(NAMES[SERVER], "tc_egress", 4): (1 << 62) + 1} == counted(told(compare("-o", "json", then=then)))
    assert f"  {(1 << 62) + 1}\n" in compare(then=then).stdout


@pytest.mark.parametrize(
    "selectors", [["--pod", "server"], ["--ip", "10.65.0.3"], ["--interface", NAMES[SERVER]], ["--pod", "ns-b/server"]]
)
def test_only_what_is_selected_is_shown(compare, selectors):
    then = [added(one, 0, 4, 3) for one in NAMES]
    assert {(NAMES[SERVER], "tc_ingress", 4): 3} == counted(told(compare("-o", "json", *selectors, then=then)))


def test_one_that_went_can_be_selected_still(compare):
    for selectors in (["--pod", "server"], ["--ip", "10.65.0.3"], ["--interface", NAMES[SERVER]]):
        assert "vanished in between" in compare(*selectors, then=[removed(SERVER)]).stdout


@pytest.mark.parametrize(
    ("arguments", "bundles"),
    [
        (["--diff", "1", "--watch", "1"], 0),
        (["--diff", "--watch"], 2),
        (["--diff"], 1),
        (["--diff=1"], 1),
        (["--watch"], 1),
        (["--watch"], 2),
        ([], 3),
        (["--top", "0"], 2),
        (["--top", "-1"], 2),
        (["--top", "all"], 2),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(run, recording, arguments, bundles):
    result = run("counters", *arguments, *["--bundle", recording(HERE)] * bundles)
    assert (2, "") == (result.exit_code, result.stdout)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_two_bundles_can_come_from_the_environment(run, recording):
    both = f"{recording(HERE)}:{recording(HERE.replace('before', 'after'))}"
    result = run("counters", "-o", "json", env={"CALICO_BPF_EXPORTER_BUNDLE": both})
    assert 10 == told(result)["dropped"]["policy"]


# Consecutive snapshots of a node.


def test_a_difference_is_of_two_snapshots_as_far_apart_as_it_says(run, changing_node):
    for arguments, seconds in ((["--diff", "3"], 3), (["--diff"], 10), (["--diff", "2m"], 120)):
        node = changing_node([], [added(SERVER, 1, 4, 5)])
        answer = told(run("counters", "-o", "json", *arguments))
        assert node.waited == pytest.approx([seconds], abs=0.5)
        assert {(NAMES[SERVER], "tc_egress", 4): 5} == counted(answer)
        assert answer["seconds"] > 0


def test_a_difference_ended_early_shows_what_was_counted_so_far(run, changing_node):
    changing_node([])
    result = run("counters", "--diff")
    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout.startswith("0 endpoints of 7 counted")


def test_watching_in_a_pipe_shows_each_interval_and_ends_well(run, changing_node):
    grown = [added(SERVER, 1, 4, 5)]
    node = changing_node([], grown, grown, [*grown, added(SERVER, 1, 4, 2)])
    result = run("counters", "--watch", "-o", "json")
    assert (0, "", [2, 2, 2, 2]) == (result.exit_code, result.stderr, node.waited)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    server = (NAMES[SERVER], "tc_egress", 4)
    assert [{server: 5}, {}, {server: 2}] == [counted(answer) for answer in answers]
    assert all(datetime.fromisoformat(answer["at"]).tzinfo for answer in answers)


def test_each_line_in_a_pipe_begins_with_its_time(run, changing_node):
    changing_node([], [added(SERVER, 1, 4, 5), added(CLIENT, 0, 0, 1)], [removed(SERVER)])
    lines = run("counters", "--watch=0.5").stdout.splitlines()
    times, rest = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert all(datetime.fromisoformat(one).utcoffset().total_seconds() == 0 for one in times)
    assert f"ns-b/server  {NAMES[SERVER]}  inbound  tc_egress  dropped: policy  5  " in rest[0]
    assert any("vanished in between" in one for one in rest)
    assert 2 == sum(" counted, " in one for one in rest)


def test_a_snapshot_that_fails_is_a_sentence_and_watching_goes_on_from_the_next_complete_one(run, changing_node):
    changing_node(
        [],
        MapMissing("Calico\x1b[2J restarts"),
        MapMissing("again"),
        [added(SERVER, 1, 4, 5)],
        [added(SERVER, 1, 4, 7)],
    )
    result = run("counters", "--watch", "-o", "json")
    assert (0, "Calico\\x1b[2J restarts\n") == (result.exit_code, result.stderr)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [{(NAMES[SERVER], "tc_egress", 4): 2}] == [counted(answer) for answer in answers]


def test_where_the_first_snapshot_fails_nothing_is_watched(run, changing_node):
    changing_node([failing("maps/cali_counters6", "refused")], [])
    result = run("counters", "--watch")
    assert (1, "", "Error: refused\n") == (result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("selectors", "code"),
    [(["--pod", "nobody"], 1), (["--interface", "eth9"], 1), (["--ip", "x"], 2), (["--pod", "a/b/c"], 2)],
)
def test_who_is_not_there_is_said_before_watching(run, changing_node, selectors, code):
    node = changing_node([], [])
    result = run("counters", "--watch", *selectors)
    assert (code, "", []) == (result.exit_code, result.stdout, node.waited)


def test_one_that_is_watched_may_go(run, changing_node):
    changing_node([], [removed(SERVER)], [removed(SERVER)])
    result = run("counters", "--watch", "--pod", "server")
    assert (0, "") == (result.exit_code, result.stderr)
    assert "vanished in between" in result.stdout
    assert "0 endpoints of 0 counted" in result.stdout.splitlines()[-1]


def test_watching_is_ended_by_a_signal_with_exit_code_0(recording):
    frames = ",".join(str(recording(f"v3.32.1/02-ingress-deny.{when}")) for when in ("before", "after"))
    words = [sys.executable, "-m", "tests.cli.changing_node", frames, "counters", "--watch", "1", "-o", "json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = json.loads(process.stdout.readline())
        time.sleep(0.3)  # what is read between two waits is not what is asked here
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert (0, b"") == (process.returncode, errors)
    assert {"policy": 10} == first["dropped"]
    assert all(json.loads(line)["dropped"] == {} for line in rest.splitlines())


def test_watching_ends_when_its_reader_leaves(recording):
    words = [sys.executable, "-m", "tests.cli.changing_node", str(recording(HERE)), "counters", "--watch", "0.1"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().endswith(b" s\n")
        process.stdout.close()
        errors = process.stderr.read()
    assert (1, b"") == (process.returncode, errors)


# What was not so once.


# Once a pod made again was two that fit.
def test_a_pod_made_again_is_still_the_pod_that_was_asked_for(compare):
    result = compare("--pod", "server", "-o", "json", then=[renumbered(SERVER, 27)])
    assert "appeared" in {one["fate"] for one in told(result)["endpoints"]}


# Once as above, and nothing was shown from then on.
def test_a_pod_made_again_is_watched_on(run, changing_node):
    again = renumbered(SERVER, 27)
    changing_node([], [again], [added(SERVER, 1, 4, 5), again])
    assert "appeared in between" in run("counters", "--watch", "--pod", "server").stdout


# Once Ctrl-C was expected while it waits only.
@pytest.mark.parametrize("arguments", [["--watch"], ["--diff"]])
def test_ctrl_c_while_a_node_is_read_ends_it_well_too(run, changing_node, arguments):
    changing_node([], KeyboardInterrupt(), [])
    assert 0 == run("counters", *arguments).exit_code


# Once rates were looked up by index alone.
def test_who_has_the_index_of_one_that_went_has_its_own_rates(compare):
    begin = [made_at(NOON), renamed(NAMES[SERVER], "caliother")]
    rates = [row[-1] for row in rows(compare(begin=begin, then=[made_at("2026-01-02T12:00:10+00:00")]).stdout)]
    assert rates
    assert "0/s" not in rates


# Once endpoints were selected by index alone.
def test_who_has_the_index_of_one_that_went_is_not_selected_with_it(compare):
    result = compare("--interface", NAMES[SERVER], begin=[renamed(NAMES[SERVER], "caliother")])
    assert "caliother" not in result.stdout


# Once an entry that is gone was reported as counters that were reset.
def test_an_entry_that_is_gone_is_not_said_to_count(compare):
    assert "was reset" not in compare(then=[without(CLIENT, 0)]).stdout


# Once it took two snapshots before it selected.
def test_an_endpoint_that_is_not_there_is_said_before_the_second_snapshot(run, changing_node):
    node = changing_node([], [])
    assert 1 == run("counters", "--diff", "--pod", "nobody").exit_code
    assert [] == node.waited


# Once the sentence was that of one bundle.
def test_watching_two_bundles_is_not_answered_with_the_advice_to_give_two(run, recording):
    result = run("counters", "--watch", *["--bundle", recording(HERE)] * 2)
    assert "give --bundle twice" not in result.stderr


# Once the last line counted what is shown and did not say what is not.
@pytest.mark.parametrize("before", [[], ["begin"]])
def test_top_says_how_many_endpoints_it_leaves_out(run, compare, recording, before):
    then = [added(one, 0, 4, 3) for one in NAMES]
    result = compare("--top", "1", then=then) if before else run("counters", "--top", "1", "--bundle", recording(HERE))
    assert re.search(r"not shown: .*endpoint", result.stdout)


# What is not so yet.


def test_watching_a_pod_goes_on_when_another_of_its_name_comes(run, changing_node, named):
    changing_node([], [named("k8s ns-a%2Fserver eth0", "k8s ns-b%2Fserver eth0")], [])
    assert 0 == run("counters", "--watch", "--pod", "server").exit_code
