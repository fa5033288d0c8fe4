"""The program as a whole: help, version, completion, and that an error is a sentence."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from exporter import __version__
from exporter.bpf.maps import MapDenied, MapError, MapMissing, ReaderMissing
from exporter.calico import LayoutError
from exporter.calico.layout_file import LayoutFileError
from exporter.cli.main import COMMANDS, PROGRAM, sentence_of
from exporter.node import NodeError
from exporter.snapshot.bundle import BundleError
from exporter.web.transport.listener import ListenError
from tests import installed

HERE = "v3.32.1/05-eot-egress-deny.after"


def test_without_a_command_it_prints_its_help(run):
    output = run().output
    assert output.startswith(f"Usage: {PROGRAM} ")
    assert all(name in output for name in COMMANDS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_no_error(run, flag):
    result = run(flag)
    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout.startswith(f"Usage: {PROGRAM} ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command, flag):
    result = run(command, flag)
    assert 0 == result.exit_code
    assert f"Usage: {PROGRAM} {command} " in result.stdout


def test_its_version_is_the_packages(run):
    assert f"{PROGRAM}, version {__version__}\n" == run("--version").stdout


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["counters", "--nothing"], ["counters", "extra"], ["scrape", "--format", "json"], ["-x"]]
)
def test_wrong_usage_exits_2_with_a_sentence(run, arguments):
    result = run(*arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert "Error: " in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_a_shell(shell):
    environment = {**os.environ, "_CALICO_BPF_EXPORTER_COMPLETE": f"{shell}_source"}
    printed = subprocess.run([installed.program()], env=environment, capture_output=True, check=False)
    assert (0, b"") == (printed.returncode, printed.stderr)
    assert b"_CALICO_BPF_EXPORTER_COMPLETE" in printed.stdout
    assert b"calico-bpf-exporter" in printed.stdout


def test_the_module_is_the_program(start):
    assert f"{PROGRAM}, version {__version__}\n" == start("--version").stdout.decode()


@pytest.mark.parametrize("kind", [MapError, MapDenied, MapMissing, ReaderMissing, LayoutError, LayoutFileError])
@pytest.mark.parametrize("more", [NodeError, BundleError, ListenError])
def test_the_programs_own_errors_are_sentences(kind, more):
    assert ["one", "two"] == [sentence_of(kind("one")), sentence_of(more("two"))]


def test_a_thread_that_cannot_be_started_is_a_sentence():
    assert "raise the limit of processes" in sentence_of(RuntimeError("can't start new thread"))


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError("x"), RuntimeError("x")])
def test_any_other_error_is_a_bug_and_no_sentence(error):
    assert sentence_of(error) is None


def test_a_foreign_error_of_the_same_name_is_a_bug(run):
    foreign = type("MapError", (Exception,), {"__module__": "elsewhere"})
    assert sentence_of(foreign("x")) is None


def test_a_command_is_imported_only_when_it_is_used(start, recording):
    code = (
        "import sys\n"
        "from exporter.cli.main import program\n"
        f"program(['counters', '-o', 'json', '--bundle', {str(recording(HERE))!r}], standalone_mode=False)\n"
        "print([one for one in ('h11', 'asyncio', 'prometheus_client', 'pyroute2', 'rich') if one in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"[]" == printed.stdout.splitlines()[-1]


@pytest.mark.parametrize("command", [["counters"], ["counters", "-o", "json"], ["scrape"], ["check"]])
def test_a_reader_that_leaves_early_gets_no_traceback(recording, command):
    arguments = [installed.program(), *command, "--bundle", str(recording(HERE))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


# Once: standard output on a full disk (here /dev/full) ends in a traceback: Commands.invoke passes on OSError.
@pytest.mark.parametrize(
    "command",
    [["counters"], ["counters", "-o", "json"], ["scrape"], ["check"], ["check", "-o", "json"], ["counters", "--help"]],
)
def test_an_output_that_is_full_is_a_sentence(start, recording, command):
    with Path("/dev/full").open("wb") as full:
        ended = start(*command, "--bundle", recording(HERE), stdout=full)
    assert 1 == ended.returncode
    assert b"Traceback" not in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


@pytest.mark.parametrize("command", [["counters"], ["scrape"], ["check", "-o", "json"], ["policy"], ["--version"]])
def test_an_output_that_is_closed_is_a_sentence(recording, command):
    words = [installed.program(), *command, *(["--bundle", recording(HERE)] if command != ["--version"] else [])]
    ended = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, check=False)
    assert (1, b"Error: standard output could not be written: it is closed\n") == (ended.returncode, ended.stderr)


def test_input_and_errors_that_are_closed_change_nothing(start, recording):
    words = [installed.program(), "counters", "--bundle", recording(HERE)]
    ended = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *words], stdout=subprocess.PIPE, check=False)
    assert (0, start(*words[1:]).stdout) == (ended.returncode, ended.stdout)


def test_no_file_gets_the_number_of_a_closed_stream():
    """What a library prints to standard error would be written into it."""
    code = (
        "import os, sys; from exporter.standard_streams import open_closed_streams; open_closed_streams();"
        "print([os.readlink(f'/proc/self/fd/{one}') for one in range(3)], file=open(sys.argv[1], 'w'))"
    )
    command = 'exec "$@" <&- >&- 2>&-'
    with tempfile.NamedTemporaryFile() as told:
        subprocess.run(["sh", "-c", command, "sh", sys.executable, "-c", code, told.name], check=True)
        assert str(["/dev/null"] * 3) == told.read().decode().strip()
