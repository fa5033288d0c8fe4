"""Recordings of real nodes."""

import functools
from pathlib import Path

import pytest

from exporter.snapshot.bundle import read_bundle

RECORDINGS = Path(__file__).parents[1] / "recordings"


@functools.cache
def _recorded(name):
    return read_bundle(RECORDINGS / f"{name}.tar.xz")


@pytest.fixture(scope="session")
def recorded():
    """Opens the recording of this name, below tests/recordings and without its suffix, as a `Bundle`."""
    return _recorded
