"""A node's bundle, written into a file on this machine."""

import lzma
import os
import tarfile
import tempfile
from pathlib import Path

import click

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.places import Place
from exporter.printable import printable


def fetch_bundle(kubectl: Kubectl, place: Place, file: str) -> int:
    """Writes it and gives the exit code of `bundle` there. Raises `KubectlError`; the file is then as it was."""
    if file == "-":
        return kubectl.attach(place.exporter, ["bundle", "-"])
    target = Path(file)
    if target.exists() and not target.is_file():
        raise KubectlError(f"{file} is no file that could be replaced; - is standard output")
    try:
        # Under a name that nobody can foresee, beside the file: in a shared folder a link could wait for one.
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise KubectlError(f"{file} could not be written: {error.strerror}") from error
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as part:
            ran = kubectl.run_in(place.exporter, ["bundle", "-"], output=part)
        for line in ran.errors.splitlines():
            click.echo(printable(line), err=True)
        if not _whole(unfinished):
            raise KubectlError(f"{place.exporter} on node {place.node} sent no whole bundle")
        unfinished.replace(target)
    except OSError as error:
        raise KubectlError(f"{file} could not be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return ran.code


def _whole(file: Path) -> bool:
    """Whether the archive is there to its end: a broken connection leaves half of one."""
    try:
        with tarfile.open(file) as archive:
            return bool(archive.getmembers())
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError):
        return False
