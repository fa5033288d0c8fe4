"""Log lines: one line for one event, whatever is in it, for machines and people."""

import json
import logging
import shlex

import pytest

from exporter.cli.logs import set_up_logging

AWKWARD = 'two words, "quotes", a \\ and\nmore\x1b[2J\r\x00 \u2028 é'


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_an_event_is_one_printable_line(capsys, style):
    set_up_logging("info", style)
    logging.getLogger("test").warning("%s", AWKWARD)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


def test_json_carries_the_message_whole(capsys):
    set_up_logging("info", "json")
    logging.getLogger("test").warning("%s", AWKWARD)
    event = json.loads(capsys.readouterr().err)
    assert ("warning", "test", AWKWARD) == (event["level"], event["logger"], event["msg"])


def test_logfmt_is_words_of_key_and_value(capsys):
    set_up_logging("info", "logfmt")
    logging.getLogger("test").error("two words")
    words = shlex.split(capsys.readouterr().err)
    assert ["time", "level", "logger", "msg"] == [word.partition("=")[0] for word in words]
    assert ["level=error", "logger=test", "msg=two words"] == words[1:]


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_a_traceback_stays_in_the_line_of_its_event(capsys, style):
    set_up_logging("info", style)
    try:
        int(AWKWARD)
    except ValueError:
        logging.getLogger("test").exception("it broke")
    (line,) = capsys.readouterr().err.splitlines()
    assert "traceback" in line
    assert "ValueError" in line


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_less_important_lines_are_left_out(capsys, level, expected):
    set_up_logging(level, "logfmt")
    for one in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("test").log(one, "x")
    assert expected == len(capsys.readouterr().err.splitlines())


def test_an_empty_message_is_a_value_too(capsys):
    set_up_logging("info", "logfmt")
    logging.getLogger("test").warning("")
    assert capsys.readouterr().err.rstrip("\n").endswith('msg=""')
