"""What the soak needs of the machine is what all tests on a real kernel need."""

from tests.kernel.conftest import bpf_mount, machine  # noqa: F401  fixtures, found by their names
