"""A node's bundle, written into a file on this machine."""

import lzma
import tarfile
from pathlib import Path

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Target
from exporter.printable import say
from exporter.replacing import replacing, wrote


def fetch_bundle(kubectl: Kubectl, place: Target, file: str) -> int:
    """Writes it and gives the exit code of `bundle` there. Raises `KubectlError`; the file is then as it was."""
    if file == "-":
        return kubectl.attach(place.exporter, ["bundle", "-"])
    try:
        with replacing(Path(file)) as part:
            ran = kubectl.run_in(place.exporter, ["bundle", "-"], output=part)
            for line in ran.errors.splitlines():
                say(line, err=True)
            if not _whole(part.name):
                raise KubectlError(f"{place.exporter} on node {place.node} sent no whole bundle")
        say(wrote(Path(file)), err=True)
    except OSError as error:
        raise KubectlError(f"{file} could not be written: {error.strerror}") from error
    return ran.code


def _whole(file: str) -> bool:
    """Whether the archive is there to its end: a broken connection leaves half of one."""
    try:
        with tarfile.open(file) as archive:
            return bool(archive.getmembers())
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError):
        return False
