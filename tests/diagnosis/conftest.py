"""Nodes made in memory, snapshots of them, and recordings of real ones."""

from tests.nodes import make, recorded  # noqa: F401  fixtures that several packages share
