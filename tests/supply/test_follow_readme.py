"""What .ci/follow-readme takes for commands and links, and how it tells what a program left."""

import importlib.util
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def follow_readme():
    loader = SourceFileLoader("follow_readme", str(ROOT / ".ci/follow-readme"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("follow_readme", loader))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_the_readmes_commands_begin_with_the_demo_and_a_curl_of_its_drops(follow_readme):
    start, curl, *_ = follow_readme.readme_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert start == "make demo"
    assert curl.startswith("curl ")


def test_a_block_is_all_commands_or_those_after_a_prompt(follow_readme):
    inside = "```\na\nb | c\n```\n\n```\n$ d 'e'\nits output\n```\n"
    text = f"\n## Before\n\n```\nno\n```\n\n## Try it\n\n{inside}\n## On\n\n```\nno\n```\n"
    assert ["a", "b | c", "d 'e'"] == follow_readme.readme_commands(text)


def test_what_the_demo_prints_is_commands_where_it_is_indented_and_links_where_it_is_not(follow_readme):
    links = "open http://localhost:1/ in a browser, or\nhttp://a:2/x."
    text = f"Try:\n\n  curl http://localhost:1/metrics\n\n{links}\n\n  why --for 5\n"
    assert ["curl http://localhost:1/metrics", "why --for 5"] == follow_readme.printed_commands(text)
    assert ["http://localhost:1/", "http://a:2/x"] == follow_readme.printed_links(text)


def test_a_terminal_says_what_a_command_printed_and_how_it_ended_and_ctrl_c_ends_it(follow_readme):
    terminal = follow_readme.Terminal()
    assert (3, "one\n") == terminal.run("printf '\\033[1mone\\033[0m\\n'; (exit 3)")
    terminal.type("sh -c 'echo begun; exec sleep 60'")  # Ctrl-C before it has the terminal is the shell's own
    while "begun\n" not in terminal._text:
        time.sleep(0.05)
    assert not terminal.is_at_prompt
    terminal.interrupt()
    assert 130 == terminal.wait(20)


def test_a_process_and_a_file_that_stay_are_seen(follow_readme, tmp_path, monkeypatch):
    monkeypatch.setattr(follow_readme, "FOLDERS", (str(tmp_path),))
    before = follow_readme.what_there_is()
    (tmp_path / "left").touch()
    with subprocess.Popen(["sleep", "60"]) as process:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":  # it gets its name a moment after its program
            time.sleep(0.01)
        left = follow_readme.what_there_is() - before
        process.kill()
    assert {f"file {tmp_path}/left", f"process {process.pid} sleep"} <= left
