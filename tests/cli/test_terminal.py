"""A real terminal: nothing wider than it, no number in two, colours where they are wanted, and no name that acts."""

import fcntl
import functools
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests import installed
from tests.cli.edits import added, edits, hit, removed, renumbered, rewritten

ROOT = Path(__file__).parents[2]
HERE, FLOWS = "v3.32.1/02-ingress-deny", "v3.32.1/46-flowlogs-enabled"
HEP, OLD = "v3.32.1/57-hep-traffic", "v3.29.7/57-hep-traffic"
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
CLIENT, SERVER = 5, 7
LARGE = 1 << 62
GATE_INBOUND = 5091920221193603583  # the id of the rule that denies what comes to the server


def begin(words, columns, lines, env):
    """Starts a program in a terminal of this size; also its other end."""
    other, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TERM": "xterm-256color"} | env
    process = subprocess.Popen(words, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    return process, other


def read(process, other, until=None, seconds=30.0):
    """What it prints to its end, or until it has printed this."""
    found, last = b"", time.monotonic() + seconds
    try:
        while not (until and re.search(until, plain(found.decode("utf-8", "replace")))) and time.monotonic() < last:
            if select.select([other], [], [], 0.1)[0]:
                found += os.read(other, 1 << 16)
    except OSError:  # its end is closed
        pass
    return found.decode().replace("\r\n", "\n")


@pytest.fixture(scope="session")
def terminal():
    """What a command prints in a terminal, and that it ends well."""

    def run(*words, columns=80, lines=24, code=0, **env):
        process, other = begin([installed.program(), *map(str, words)], columns, lines, env)
        with process:
            text = read(process, other)
        os.close(other)
        assert code == process.returncode, text
        return text

    return run


@pytest.fixture
def watch(changed):
    """What `counters --watch` prints of a node that changes, until this is on the screen and Ctrl-C is pressed."""

    def run(*arguments, until, frames, columns=80, lines=24, seconds=30, **env):
        film = ",".join(str(changed(f"{HERE}.before", edits(*one))) for one in frames)
        words = [sys.executable, "-m", "tests.cli.changing_node", film, "counters", "--watch", "0.5", *arguments]
        process, other = begin(words, columns, lines, env)
        with process:
            text = read(process, other, until, seconds)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            rest = read(process, other)
        os.close(other)
        assert 0 == process.returncode, text + rest
        return text, rest

    return run


def plain(text):
    return SEQUENCE.sub("", text)


def colours(text):
    """The colours among the escape sequences."""
    marks = {int(mark) for codes, kind in SEQUENCE.findall(text) if kind == "m" for mark in codes.split(";") if mark}
    return {mark for mark in marks if 30 <= mark <= 48 or 90 <= mark <= 107}


def pair(recording, name, *whens):
    return [word for when in whens or ("before", "after") for word in ("--bundle", recording(f"{name}.{when}"))]


COMMANDS = {
    "counters": (["counters", "--pod", "server"], FLOWS, ["after"], 0),
    "counters of two": (["counters"], FLOWS, [], 0),
    "policy": (["policy"], HEP, ["after"], 0),
    "policy of two": (["policy", "--nonzero"], FLOWS, [], 0),
    "policy of v3.29": (["policy", "--nonzero"], OLD, ["after"], 0),
    "why of a pod": (["why", "--pod", "client"], FLOWS, [], 3),
    "why of a host": (["why", "--interface", "eth0"], HEP, [], 3),
    "why not": (["why", "--pod", "plain"], HERE, [], 0),
}


@pytest.fixture(scope="module", params=COMMANDS.values(), ids=COMMANDS.keys())
def printed(request, terminal, start, recording):
    """What a command prints in a terminal of this width, or in a pipe without one."""
    command, name, whens, code = request.param
    words = [*command, *pair(recording, name, *whens)]

    @functools.cache
    def run(columns=None, **env):
        if columns:
            return terminal(*words, columns=columns, code=code, **env)
        ended = start(*words, env=env)
        assert (code, b"") == (ended.returncode, ended.stderr)
        return ended.stdout.decode()

    return run


def numbers(text):
    return sorted(re.findall(r"\d+", plain(text)))


@pytest.mark.parametrize("columns", [80, 200])
def test_nothing_is_wider_than_the_terminal_and_every_number_is_whole(printed, columns):
    text = printed(columns)
    # An address is as long as it is: cut in two it would lead nowhere.
    lines = [line for line in plain(text).splitlines() if "https://" not in line]
    assert columns >= max(map(len, lines))
    wide, narrow = (set(numbers(one)) for one in (printed(500), text))
    assert wide == narrow


def test_a_terminal_gets_escape_sequences_and_a_pipe_none(printed):
    assert "\x1b[" in printed(80)
    assert "\x1b" not in printed()


def test_who_wants_no_colours_gets_none(printed):
    assert set() == colours(printed(80, NO_COLOR="1"))


@pytest.mark.parametrize("command", ["counters", "policy", "why"])
def test_drops_are_red(terminal, recording, command):
    arguments = ["--pod", "server"] if command == "why" else []
    text = terminal(command, *arguments, *pair(recording, HERE), code=3 if command == "why" else 0)
    assert 31 in colours(text)


def test_drops_that_counters_shows_are_red_as_those_of_why(terminal, recording):
    text = terminal("counters", "--pod", "server", "--nonzero", *pair(recording, HERE, "after"))
    assert {"\x1b[31m  dropped: policy\x1b[0m", "\x1b[31m10\x1b[0m"} <= set(re.findall(r"\x1b\[31m.*?\x1b\[0m", text))
    assert re.search(r"\x1b\[31m1 endpoint, 10 packets dropped: policy 10\x1b\[0m", text)


def test_watching_says_what_its_columns_mean_and_ends_with_a_whole_interval(watch):
    text, rest = watch(until="5 packets dropped", frames=[[], GROWN, [added(SERVER, 1, 4, 7)]])
    assert re.search(r"SINCE START +PER SECOND\n +\([\d.]+ s\) +\(last [\d.]+ s\)", plain(text))
    # Ctrl-C comes 0.1 s after an interval of 0.5 s: what stands there at the end is of that interval.
    assert "7 packets dropped" not in plain(rest)
    assert re.search(r"dropped: policy +inbound +tc_egress +5 ", plain(rest))


def test_an_empty_no_color_is_none(terminal, recording):
    assert colours(terminal("policy", *pair(recording, HERE, "after"), NO_COLOR=""))


@pytest.mark.parametrize("columns", [40, 80])
def test_the_largest_numbers_are_whole_at_any_width(terminal, changed, recording, columns):
    many = changed(f"{HERE}.after", edits(added(SERVER, 1, 4, LARGE), hit(GATE_INBOUND, LARGE)))
    bundles = ["--bundle", recording(f"{HERE}.before"), "--bundle", many]
    for words, code in ((["counters"], 0), (["policy", "--pod", "server"], 0), (["why", "--pod", "server"], 3)):
        text = plain(terminal(*words, *bundles, columns=columns, code=code))
        assert re.search(rf"(?<!\d){LARGE + 10}(?!\d)", text)


# Names that act.

HOSTILE = b"\\u001b[2J\\u009b1A\\u0007\\r\\u202e[red]"
NAMED = ("k8s ns%2F%1b[2J%0d%07x eth0", "k8s %1b]0;title%07%2Fpod eth0", "k8s %e2%80%ae%2Fpod2 eth0", "k8s ns%2Fy eth0")
PLACES = {
    "policy": (b" security.gate", b" sec" + HOSTILE),
    "tier": (b"tier security", b"tier sec" + HOSTILE),
    "namespace": (b"ns-b/allow-http", b"ns" + HOSTILE + b"/http"),
    "profile": (b"kns.ns-b", b"kns." + HOSTILE),
    "rule": (b'protocol:{name:\\"udp\\"}', b'protocol:{name:\\"' + HOSTILE + b'\\"}'),
    "error": (b'"error":""', b'"error":"' + HOSTILE + b'"'),
    "comment": (b"If protocol", b"If" + HOSTILE),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", [["policy", "--instructions"], ["why"]], ids=" ".join)
def test_a_name_in_a_policy_file_is_harmless_text(terminal, run, changed, place, command):
    arguments = [
        *command,
        "--interface",
        "cali34769d6a557",
        "--bundle",
        changed(f"{HERE}.after", rewritten(*PLACES[place])),
    ]
    piped = run(*arguments)
    assert all(one.isprintable() or one == "\n" for one in piped.output)
    if command[0] == "policy":
        assert "\\x1b[2j" in piped.stdout.lower()
    text = plain(terminal(*arguments, columns=200, code=piped.exit_code))
    assert all(one.isprintable() or one == "\n" for one in text)


@pytest.mark.parametrize(
    "words", [["counters"], ["policy"], ["why", "--interface", "cali14a81566bd7"], ["why", "--pod", "pod"]]
)
def test_a_name_of_a_pod_is_harmless_text(terminal, run, changed, named, words):
    bundles = [changed(f"{HERE}.{when}", named(*NAMED)) for when in ("before", "after")]
    arguments = [*words, *(word for one in bundles for word in ("--bundle", one))]
    piped = run(*arguments)
    assert all(one.isprintable() or one == "\n" for one in piped.output)
    text = plain(terminal(*arguments, columns=200, code=piped.exit_code))
    assert all(one.isprintable() or one == "\n" for one in text)


def test_an_interface_that_went_under_a_hostile_name_is_harmless_text(run, changed):
    def rename(members):
        return {"links.json": members["links.json"].replace(b'"eth0"', b'"\\u001b[2J"')}

    bundles = ["--bundle", changed(f"{HERE}.before", rename), "--bundle", changed(f"{HERE}.after", edits())]
    result = run("counters", *bundles)
    assert r"\x1b[2J" in result.stdout
    assert all(one.isprintable() or one == "\n" for one in result.output)


# Watching.


GROWN = [added(SERVER, 1, 4, 5)]


@pytest.mark.parametrize("columns", [80, 200])
def test_watching_paints_over_itself_and_gives_the_cursor_back(watch, columns):
    text, rest = watch(until="dropped: policy.* 7 ", frames=[[], GROWN, [added(SERVER, 1, 4, 7)]], columns=columns)
    assert text.startswith("\x1b[?25l")
    assert "\x1b[?25h" in rest
    assert columns >= max(map(len, plain(text + rest).splitlines()))
    assert re.search(r"ns-b/server  cali34769d6a557\s+dropped: policy +inbound +tc_egress +5 ", plain(text))
    assert re.search(r"ns-b/server  cali34769d6a557\s+dropped: policy +inbound +tc_egress +7 ", plain(text))
    assert "1 endpoint of 7 counted, 7 packets dropped" in plain(text + rest)
    assert "Traceback" not in text + rest
    assert "Aborted" not in text + rest


def test_watching_without_colours_has_none(watch):
    text, rest = watch(until="5 ", frames=[[], GROWN], NO_COLOR="1")
    assert set() == colours(text + rest)


def test_a_pod_that_goes_while_it_is_watched_is_said(watch):
    text, rest = watch("--pod", "server", until="vanished", frames=[[], [removed(SERVER)]])
    assert "vanished in between" in " ".join(plain(text + rest).split())


# What was not so once.


# Once nothing was shown any more.
def test_a_pod_made_again_while_it_is_watched_is_shown_still(watch):
    frames = [[], [renumbered(SERVER, 27)], [*GROWN, renumbered(SERVER, 27)]]
    text, _ = watch("--pod", "server", until="appeared", frames=frames)
    assert "appeared in between" in " ".join(plain(text).split())


# Once its rate was 0.
def test_the_rate_of_one_that_is_not_on_top_lately_is_its_own(watch):
    first, then = [added(CLIENT, 0, 4, 1000)], [added(CLIENT, 0, 4, 1001), added(SERVER, 1, 4, 50)]
    text, _ = watch("--top", "1", until=r"1001 +[\d.]+/s", frames=[[], first, then, then])
    row = re.search(r"1001 +([\d.]+)/s", plain(text))
    assert float(row[1]) > 0


# What is not so yet.


def test_the_time_of_the_whole_is_not_that_of_the_last_interval(watch):
    text, _ = watch(until="(?s)(dropped in .*){4}", frames=[[], GROWN])
    times = [float(one) for one in re.findall(r"5 packets dropped in (\S+) s", plain(text))]
    assert times[-1] > 1.5


def test_a_terminal_that_cannot_paint_over_is_written_line_by_line(watch):
    text, _ = watch(until="dropped: policy", frames=[[], GROWN, GROWN], seconds=3, TERM="dumb")
    assert "dropped: policy" in text


def test_a_terminal_without_colours_gets_none(terminal, recording):
    assert set() == colours(terminal("why", "--pod", "client", *pair(recording, FLOWS), code=3, TERM="dumb"))


def test_a_view_whose_rows_are_folded_fits_the_terminal(watch):
    frames = [[], [added(one, hook, slot, 1) for one in (5, 7, 9) for hook in (0, 1) for slot in (0, 2, 4, 5, 8, 19)]]
    text, _ = watch(until=r"packets dropped|\.\.\.", frames=frames, columns=50)
    assert "packets dropped" in plain(text)
    assert "..." not in plain(text)


def test_a_scrape_shows_no_character_of_a_name_that_acts(changed, named):
    bundle = changed(HERE + ".after", named("k8s ns%2F%1b[2J%0d%07x eth0"))
    process, other = begin([installed.program(), "scrape", "--bundle", bundle], 80, 24, {})
    printed = read(process, other)
    os.close(other)
    assert 0 == process.wait(10)
    assert 'pod="\\x1b[2J\\r\\x07x"' in printed
    assert set() == {one for one in printed if not one.isprintable() and one != "\n"}
