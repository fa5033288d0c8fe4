"""Names come from outside: nothing in them may move a cursor, colour a line or pass for the program's own words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.printable import printable

HERE = "v3.32.1/05-eot-egress-deny.after"
# Percent-encoded, as Calico writes them: clear the screen, set the title, go to the line's start, reverse the text.
HOSTILE = (
    "k8s ns%2F%1b[2J%0d%07x eth0",
    "k8s %1b]0;title%07%2Fpod eth0",
    "k8s %e2%80%ae%2Fpod eth0",
    "k8s [red]ns[%2F]%2F[bold]x[%2Fbold][link=http:%2F%2Fa]y[%2Flink] eth0",
)


def unprintable(text):
    return {one for one in text if not one.isprintable() and one != "\n"}


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_whatever_it_is_given_it_prints_and_utf8_carries_it(text):
    assert printable(text).isprintable()
    printable(text).encode()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_what_is_printable_stays_as_it_is(text):
    assert text == printable(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["counters"],
        ["counters", "--nonzero"],
        ["counters", "-o", "json"],
        ["check"],
        ["check", "-o", "json"],
        ["counters", "--pod", "nobody"],
        ["counters", "--interface", "nothing"],
    ],
)
def test_a_hostile_pod_name_is_harmless_text(run, changed, named, arguments):
    result = run(*arguments, "--bundle", changed(HERE, named(*HOSTILE)))
    assert set() == unprintable(result.output)


# Once: the list of pods in this sentence holds their names as they are: exporter/cli/selector.py, _by_pod.
def test_a_hostile_pod_name_is_harmless_in_the_list_of_those_that_fit(run, changed, named):
    result = run("counters", "--pod", "pod", "--bundle", changed(HERE, named(*HOSTILE)))
    assert 2 == result.exit_code
    assert set() == unprintable(result.output)


# Once: a terminal or a pipe that is not UTF-8 ends in UnicodeEncodeError: print_counters in cli/counters_table.py.
@pytest.mark.parametrize("command", ["counters", "check", "scrape"])
def test_a_name_that_the_terminal_cannot_show_is_no_traceback(start, changed, named, command):
    bundle = changed(HERE, named("k8s ns%2F%e4%bd%a0%f0%9f%98%80 eth0"))
    ended = start(command, "--bundle", bundle, env={"PYTHONIOENCODING": "latin-1"})
    assert b"Traceback" not in ended.stderr
    assert 0 == ended.returncode


def test_markup_in_a_name_is_shown_and_not_obeyed(run, changed, named):
    result = run("counters", "--bundle", changed(HERE, named(*HOSTILE)))
    assert "[red]ns[/]/[bold]x[/bold][link=http://a]y[/link]  cali" in result.stdout


def test_a_hostile_name_is_whole_in_json(run, changed, named):
    result = run("counters", "-o", "json", "--bundle", changed(HERE, named(*HOSTILE)))
    assert "\x1b[2J\r\x07x" in {one["pod"] for one in json.loads(result.stdout)["endpoints"]}


def test_a_hostile_interface_name_is_harmless_text(run, changed):
    def rename(members):
        return {"links.json": members["links.json"].replace(b'"eth0"', b'"\\u001b[2J[red]\\n"')}

    result = run("counters", "--bundle", changed(HERE, rename))
    assert r"\x1b[2J[red]\n  (ifindex 3, host)" in result.stdout
    assert set() == unprintable(result.output)


# Once sentences that a bundle carries are printed as they are: Commands.invoke in exporter/cli/main.py and the failures
# in exporter/cli/scrape.py.
@pytest.mark.parametrize(
    ("command", "part"),
    [("counters", "maps/cali_counters6"), ("counters", "pins"), ("check", "pins"), ("scrape", "links")],
)
def test_a_hostile_sentence_in_a_bundle_is_harmless_text(run, changed, headed, command, part):
    result = run(command, "--bundle", changed(HERE, headed(errors={part: "\x1b]0;title\x07\x1b[2J"})))
    assert set() == unprintable(result.stderr)
    assert command == "scrape" or set() == unprintable(result.stdout)


@pytest.mark.parametrize("part", ["links", "routes", "endpoint_status", "policy_files", "maps/cali_iface4"])
def test_a_hostile_sentence_in_a_bundle_is_a_harmless_finding(run, changed, headed, part):
    result = run("check", "--bundle", changed(HERE, headed(errors={part: "\x1b]0;title\x07\x1b[2J"})))
    assert r"\x1b]0;title\x07\x1b[2J" in result.stdout
    assert set() == unprintable(result.output)


def test_a_hostile_pin_in_a_bundle_is_harmless_text(run, changed, headed):
    def damage(members):
        return {**headed(pins=["\x1b[2J"])(members), "maps/\x1b[2J/info.json": b"{"}

    result = run("check", "--bundle", changed(HERE, damage))
    assert set() == unprintable(result.output)
