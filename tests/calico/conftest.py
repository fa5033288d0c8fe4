"""Recordings of real nodes, and what Calico's own tools printed at the same moment."""

import functools
import tarfile
from pathlib import Path

import pytest

from exporter.snapshot.bundle import read_bundle

RECORDINGS = Path(__file__).parents[1] / "recordings"


@functools.cache
def _recorded(name):
    return read_bundle(RECORDINGS / f"{name}.tar.xz")


@functools.cache
def _policy_dumps(name):
    with tarfile.open(RECORDINGS / f"{name}.tar.xz") as archive:
        dumps = [member for member in archive if member.name.startswith("oracle/policy-dump.")]
        return {one.name.removeprefix("oracle/policy-dump."): archive.extractfile(one).read().decode() for one in dumps}


@pytest.fixture(scope="session")
def recorded():
    """Opens the recording of this name, below tests/recordings and without its suffix, as a `Bundle`."""
    return _recorded


@pytest.fixture(scope="session")
def policy_dumps():
    """Reads what `policy dump` printed at the moment of the recording of this name, by the end of the member's name."""
    return _policy_dumps
