"""A node's bundle, written into a file on this machine."""

from collections.abc import Sequence
from pathlib import Path

from exporter.archive import ArchiveError, count_members
from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Target
from exporter.printable import say
from exporter.replacing import replacing, wrote


def fetch_bundle(kubectl: Kubectl, target: Target, file: str, flags: Sequence[str]) -> int:
    """Writes it and returns the exit code of `bundle` there. Raises `KubectlError` and leaves the file unchanged."""
    command = ["bundle", "-", *flags]
    if file == "-":
        return kubectl.attach(target.exporter, command)
    try:
        with replacing(Path(file)) as part:
            ran = kubectl.run_in(target.exporter, command, output=part)
            for line in ran.errors.splitlines():
                say(line, err=True)
            if not _is_complete(part.name):
                raise KubectlError(f"{target.exporter} on node {target.node} sent no whole bundle")
        say(wrote(Path(file)), err=True)
    except OSError as error:
        raise KubectlError(f"{file} could not be written: {error.strerror}") from error
    return ran.code


def _is_complete(file: str) -> bool:
    """Whether the archive is complete: a broken connection truncates it."""
    try:
        return count_members(Path(file)) > 0
    except ArchiveError:
        return False
