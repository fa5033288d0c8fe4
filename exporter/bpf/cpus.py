"""How many CPUs a per-CPU map holds values for: the possible ones, which can exceed the online ones by far.

The kernel writes one value per possible CPU (`for_each_possible_cpu` in kernel/bpf/hashtab.c), so the count comes
from sysfs and never from `os.cpu_count()`.
"""

from pathlib import Path

from exporter.bpf.maps import MapError

POSSIBLE = Path("/sys/devices/system/cpu/possible")


def parse_cpu_list(text: str) -> int:
    """The number of CPUs in a kernel CPU list such as `0-3,8-11`. Raises ValueError for any other text."""
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        span = int(last if dash else first) - int(first) + 1
        if span < 1:
            raise ValueError(part)
        count += span
    return count


def possible_cpus() -> int:
    """The number of CPUs that this kernel could ever bring up."""
    try:
        return parse_cpu_list(POSSIBLE.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise MapError(f"the number of possible CPUs could not be read from {POSSIBLE}: {error}") from error
