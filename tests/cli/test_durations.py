"""Lengths of time as a person writes them: what is meant is taken, what could be meant otherwise is refused."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.quantities import Duration, format_duration

HERE = "v3.32.1/05-eot-egress-deny.after"
TAKEN = {
    "10s": 10, "2m": 120, "1h": 3600, "500ms": 0.5, "10": 10, "1.5": 1.5, "0.5m": 30, "0.1": 0.1, "100ms": 0.1,
    "24h": 86400, "1440m": 86400, "86400": 86400, "007": 7,
}  # fmt: skip
REFUSED = (
    "", "0", "0s", "-1", "+1", "1e9", "1e1", "10 s", " 10", "10s ", "s", "ms", ".5", "5.", "1,5", "1_0", "10S", "1d",
    "1h30m", "0.09", "99ms", "24.01h", "25h", "86401", "nan", "inf", "0x10", "\uff110", "10\n", "9" * 5000,
    "1." + "0" * 5000,
)  # fmt: skip


def converted(text):
    return Duration().convert(text, None, None)


@pytest.mark.parametrize(("text", "seconds"), TAKEN.items())
def test_what_is_meant_is_taken(text, seconds):
    assert seconds == pytest.approx(converted(text))


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no time between 100ms and 24h"):
        converted(text)


@given(st.text(st.sampled_from("0123456789.smh -+e")))
def test_whatever_is_taken_is_between_a_tenth_of_a_second_and_a_day(text):
    try:
        seconds = converted(text)
    except click.BadParameter:
        return
    assert 0.1 <= seconds <= 86400


@pytest.mark.parametrize("command", [["counters", "--diff"], ["counters", "--watch"], ["why", "--pod", "x", "--for"]])
@pytest.mark.parametrize("text", ["0", "1e9", "10 s", "soon"])
def test_a_time_that_cannot_be_meant_is_wrong_usage(run, command, text):
    result = run(*command[:-1], f"{command[-1]}={text}")
    assert (2, "") == (result.exit_code, result.stdout)
    assert f"Invalid value for '{command[-1]}'" in result.stderr
    assert f"{text!r} is no time between 100ms and 24h" in result.stderr


@pytest.mark.parametrize(
    ("variable", "command"),
    [("COUNTERS_DIFF", "counters"), ("COUNTERS_WATCH", "counters"), ("WHY_FOR", "why")],
)
def test_a_time_can_come_from_the_environment(run, variable, command):
    result = run(command, "--pod", "x", env={f"CALICO_BPF_EXPORTER_{variable}": "soon"})
    assert 2 == result.exit_code
    assert "'soon' is no time" in result.stderr


SHOWN = {
    0.1: "0.1 s", 1: "1 s", 1.004: "1 s", 119: "119 s", 120: "2 min", 5400: "90 min", 7200: "2 h", 1209600: "336 h",
}  # fmt: skip


@pytest.mark.parametrize(("seconds", "expected"), SHOWN.items())
def test_a_time_is_shown_in_the_unit_that_suits_it(seconds, expected):
    assert expected == format_duration(seconds)


# Once 1.01e+03 h.
def test_a_time_between_two_bundles_of_months_has_no_power_of_ten():
    assert "e" not in format_duration(42 * 86400.0)


@given(st.floats(0.1, 999 * 3600))
def test_whatever_time_is_shown_is_about_that_time(seconds):
    number, unit = format_duration(seconds).split()
    assert seconds == pytest.approx(float(number) * {"s": 1, "min": 60, "h": 3600}[unit], rel=0.01)
