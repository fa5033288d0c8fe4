"""Runs kubectl with the user's context and permissions. Nothing else in this package talks to a cluster.

kubectl reports errors by exit code and standard error, which this module parses.
"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any

import click

from exporter.errors import ExporterError
from exporter.kubectl.processes import Copying, Errors, TooLarge, killed_after, lines_of
from exporter.printable import printable

PROGRAM = "calico-bpf-exporter"

# "Error from server (NotFound): pods "x" not found"
_FROM_SERVER = re.compile(r"Error from server(?: \((?P<reason>\w+)\))?: (?P<sentence>.+)")
_ENDED = re.compile(rb"command terminated with exit code [0-9]+\s*")
# client-go logs these in addition to the error for people.
_LOG_LINE = re.compile(r"[EWI][0-9]{4} [0-9:.]+ ")
_OF_KUBECTL = re.compile(r"(?i)error|unable to connect|the connection to the server")
_USAGE = re.compile(rb"Usage: |Try '")
_WRONG_USAGE = 2
# Commands and options that the first exporters did not have.
_ADDED = ("conntrack", "trace")
_NO_OPTION = re.compile(r"No such option:? '?(--packets)\b")
_REQUEST_TIMEOUT = "--request-timeout=30s"
# Parsed, JSON takes up to thirty times its size.
_MAX_OBJECTS, _MAX_RESPONSE, _MAX_FILE = 256 << 20, 16 << 20, 512 << 20
_MAX_ERRORS = 64 << 10
_LINGER = 1.0

Read = Callable[["subprocess.Popen[bytes]"], None]


class KubectlError(ExporterError):
    """kubectl could not do it. One sentence; `reason` is the API server's, such as `NotFound`, or empty."""

    def __init__(self, sentence: str, reason: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PodName:
    """A pod in the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command in a pod ended: its exit code and what it wrote; `output` is empty if it went to a file."""

    code: int
    output: bytes
    errors: str


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with flags such as `--context` in each call."""

    flags: tuple[str, ...] = ()

    def get(self, *words: str) -> dict[str, Any]:
        """The object that `kubectl get WORDS -o json` prints. Raises `KubectlError`."""
        timeout = [] if any("--request-timeout" in flag for flag in self.flags) else [_REQUEST_TIMEOUT]
        ran = self._run("get", *words, *timeout, "--output=json", interactive=True)
        if ran.code:
            raise _error(ran.errors)
        try:
            found = json.loads(ran.output)
        except (ValueError, RecursionError) as error:
            raise KubectlError(f"kubectl get {' '.join(words)} printed no JSON: {error}") from error
        if not isinstance(found, dict):
            raise KubectlError(f"kubectl get {' '.join(words)} printed no object")
        return found

    def rows(self, *words: str, fields: Sequence[str]) -> list[list[str]]:
        """These fields, as JSONPath, of each object that `kubectl get WORDS` finds. Raises `KubectlError`."""
        columns = '{"\\t"}'.join(f"{{{one}}}" for one in fields)
        timeout = [] if any("--request-timeout" in flag for flag in self.flags) else [_REQUEST_TIMEOUT]
        template = f'--output=jsonpath={{range .items[*]}}{columns}{{"\\n"}}{{end}}'
        ran = self._run("get", *words, *timeout, template, max_bytes=_MAX_RESPONSE)
        if ran.code:
            raise _error(ran.errors)
        lines = (line.split("\t") for line in ran.output.decode(errors="replace").split("\n"))
        return [one for one in lines if len(one) == len(fields)]

    def list_names(self, *words: str, wait: float) -> list[str]:
        """What `kubectl WORDS -o name` prints within `wait` seconds, kinds left out. Raises `KubectlError`."""
        ran = self._run(*words, "--output=name", wait=wait)
        if ran.code:
            raise _error(ran.errors)
        lines = ran.output.decode(errors="replace").splitlines()
        # Objects are prefixed by their kind; contexts are not, and may contain a slash.
        return [line.partition("/")[2] for line in lines] if words[0] == "get" else lines

    def run_in(
        self, pod: PodName, words: Sequence[str], output: IO[bytes] | None = None, wait: float | None = None
    ) -> Finished:
        """Runs the exporter's program in a pod to its end.

        Raises `KubectlError` if it cannot be started, runs for more than `wait` seconds, or prints more than a limit;
        OSError if `output` cannot be written.
        """
        most = _MAX_FILE if output else _MAX_RESPONSE
        ran = self._run(*_exec(pod), "--", PROGRAM, *words, output=output, wait=wait, max_bytes=most)
        if ran.code == 1 and _FROM_SERVER.search(ran.errors):
            raise _not_started(pod, ran.errors)
        refuse_older(ran.code, ran.errors, words)
        kept = [line for line in ran.errors.splitlines() if not _ENDED.fullmatch(line.encode())]
        return Finished(ran.code, ran.output, "\n".join(kept))

    def attach(self, pod: PodName, words: Sequence[str], read: Read | None = None) -> int:
        """Runs the exporter's program in a pod, attached to this terminal if it is one, and returns its exit code.

        In a terminal, Ctrl-C goes to the program in the pod. With `read` its standard output is not shown, and `read`
        gets the process to read it from; in a terminal that is its standard error too. Raises `KubectlError`.
        """
        terminal = is_terminal()
        if terminal and words[0] in _ADDED:
            self.run_in(pod, [words[0], "--help"])  # an older exporter's usage would be on the terminal
        command = self._command(*_exec(pod), *(["--stdin", "--tty"] if terminal else []), "--", PROGRAM, *words)
        sys.stdout.flush()
        shown = subprocess.PIPE if read or (sys.stdout.isatty() and not terminal) else None
        with _start(command, stdin=None if terminal else subprocess.DEVNULL, stdout=shown) as process:
            refused, usage = None, b""
            output = Thread(target=read or _show, args=(process,), daemon=True)
            output.start()
            for line in lines_of(process.stderr):
                refused = refused or _FROM_SERVER.search(line.decode(errors="replace"))
                if usage or _USAGE.match(line):
                    usage += line[: _MAX_ERRORS - len(usage)]
                elif not (refused or _ENDED.fullmatch(line)):
                    _echo(line, err=True)
            output.join()
        if refused:
            raise _not_started(pod, refused[0])
        refuse_older(process.returncode, usage.decode(errors="replace"), words)
        for line in usage.splitlines(keepends=True):
            if not _ENDED.fullmatch(line):
                _echo(line, err=True)
        return process.returncode

    def _command(self, *words: str) -> list[str]:
        return ["kubectl", *words[:1], *self.flags, *words[1:]]

    def _run(
        self,
        *words: str,
        output: IO[bytes] | None = None,
        wait: float | None = None,
        max_bytes: int = _MAX_OBJECTS,
        interactive: bool = False,
    ) -> Finished:
        # A login may prompt the user, who must see the prompt while it waits.
        interactive = interactive and sys.stdin.isatty() and sys.stderr.isatty()
        printed = io.BytesIO()
        with _start(self._command(*words), stdin=None if interactive else subprocess.DEVNULL) as process:
            copying = Copying(process, output or printed, max_bytes)
            errors = None if interactive else Errors(process)
            try:
                passed_on = _passed_on(process.stderr) if interactive else ""
                process.wait(timeout=wait)
                copying.finish()
                said = errors.text() if errors else passed_on
            except subprocess.TimeoutExpired as error:
                raise KubectlError(f"no answer within {wait:.0f} s") from error
            except TooLarge as error:
                raise KubectlError(f"its response has more than {max_bytes >> 20} MiB") from error
            finally:
                if process.poll() is None:
                    process.kill()
                for reader in (copying, *([errors] if errors else [])):
                    reader.join(_LINGER)  # before its pipe is closed
        return Finished(process.returncode, printed.getvalue(), said)


def _passed_on(source: IO[bytes] | None) -> str:
    """What a process writes to its standard error, shown while it does, without lines that become our error message."""
    errors = bytearray()
    for line in lines_of(source):
        errors += line[: _MAX_ERRORS - len(errors)]
        text = line.decode(errors="replace")
        if not (_LOG_LINE.match(text) or _OF_KUBECTL.match(text)):
            _echo(line, err=True)
    return errors.decode(errors="replace")


def _show(process: "subprocess.Popen[bytes]") -> None:
    for line in lines_of(process.stdout):
        _echo(line)


def is_terminal() -> bool:
    """Whether the command in a pod is attached to a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _echo(line: bytes, *, err: bool = False) -> None:
    text = line.decode(errors="replace").rstrip("\r\n")
    click.echo(printable(text), nl=line.endswith(b"\n"), err=err)


def _exec(pod: PodName) -> list[str]:
    # With its kind before it, no name is an option.
    return ["exec", f"--namespace={pod.namespace}", f"pod/{pod.name}"]


def _start(
    command: Sequence[str], *, stdin: int | None, stdout: int | None = subprocess.PIPE
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    try:
        return killed_after(subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE))
    except FileNotFoundError as error:
        raise KubectlError("there is no kubectl in PATH") from error
    except OSError as error:
        raise KubectlError(f"kubectl could not be started: {error.strerror}") from error


def refuse_older(code: int, errors: str, words: Sequence[str]) -> None:
    """Raises `KubectlError` if the exporter's program has no such command or option: click says so, with its usage."""
    if code == _WRONG_USAGE and f"No such command '{words[0]}'" in errors:
        raise KubectlError(f"this exporter has no {words[0]}: upgrade the DaemonSet")
    if code == _WRONG_USAGE and (option := _NO_OPTION.search(errors)):
        raise KubectlError(f"this exporter has no {words[0]} {option[1]}: upgrade the DaemonSet")


def _not_started(pod: PodName, errors: str) -> KubectlError:
    error = _error(errors)
    if error.reason != "Forbidden":
        return error
    return KubectlError(f"you may not run commands in the exporter's pod {pod}: {error}", error.reason)


def _error(errors: str) -> KubectlError:
    lines = [line for line in errors.splitlines() if line.strip() and not _LOG_LINE.match(line)]
    last = lines[-1].strip().removeprefix("error: ") if lines else "kubectl failed and did not say why"
    match = _FROM_SERVER.search(last)
    return KubectlError(match["sentence"], match["reason"] or "") if match else KubectlError(last)
