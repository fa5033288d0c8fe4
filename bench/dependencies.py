"""What each dependency costs, printed as the table of docs/dependencies.md: `make bench`, or alone without root.

Size is what the image holds of a package and of those that it alone brings: the files of its record, with bytecode and
without what the Dockerfile leaves out. Memory is private memory of a fresh Python after the imports that this project
makes of it, less that of one that imported nothing; what two packages share counts for both. Both are of this machine's
Python.
"""

import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
_SKIP_INIT = f"import sys; sys.path.append({str(ROOT)!r}); import exporter.light_imports as p; p.skip_init"
# As exporter/ imports them.
IMPORTS = {
    "bcrypt": "import bcrypt",
    "cachetools": "import cachetools",
    "click": "import click",
    "h11": "import h11",
    "isal": "import isal.isal_zlib",
    "jinja2": "import jinja2",
    "markupsafe": "import markupsafe",
    "prometheus-client": f"{_SKIP_INIT}('prometheus_client'); "
    "import prometheus_client.metrics, prometheus_client.process_collector",
    "psutil": "import psutil",
    "pyroute2-minimal": f"{_SKIP_INIT}('pyroute2'); import pyroute2.netlink.rtnl.ifinfmsg, pyroute2.netlink.rtnl.rtmsg",
    "pyyaml": "import yaml",
    "rich": "import rich.console, rich.live, rich.table",
}
_PRIVATE = "\nprint(sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Private_')))"
_LEFT_OUT = re.compile(r"(^|/)(tests|include)/|\.pyi$|^\.\./")  # by the Dockerfile; and scripts


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Installed:
    """An environment with what the image has, beside which nothing is installed."""

    def __init__(self, folder: Path) -> None:
        words = ("sync", "-q", "--locked", "--no-dev", "--extra", "node", "--no-install-project", "--compile-bytecode")
        environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
        uv = str(ROOT / ".tools/uv/bin/uv")
        subprocess.run([uv, *words, "--python", sys.executable], cwd=ROOT, env=environment, check=True)
        self.python = str(folder / "bin" / "python")
        site = sysconfig.get_path("purelib", vars={"base": str(folder)})
        found = importlib.metadata.distributions(path=[site])
        self.packages = {normal(one.name): one for one in found}

    @functools.cache  # noqa: B019  one environment lives as long as this program
    def closure(self, name: str) -> frozenset[str]:
        """A package and all that it brings."""
        asked = (re.match(r"[\w.-]+", one)[0] for one in self.packages[name].requires or () if "extra ==" not in one)
        return frozenset({name}).union(*(self.closure(one) for one in map(normal, asked) if one in self.packages))

    def size(self, name: str) -> float:
        """MiB of the image."""
        total = 0
        for one in self.packages[name].files or ():
            path = Path(one.locate())
            if _LEFT_OUT.search(str(one)) or not path.is_file():
                continue
            cached = [*path.parent.glob(f"__pycache__/{path.stem}.cpython-*.pyc")] if path.suffix == ".py" else []
            total += sum(each.stat().st_size for each in (path, *cached))
        return total / (1 << 20)

    def memory(self, code: str) -> float:
        """MiB, the median of five."""
        words = [self.python, "-I", "-c", code + _PRIVATE]
        runs = [subprocess.run(words, capture_output=True, text=True, check=True) for _ in range(5)]
        return median(int(one.stdout) for one in runs) / 1024


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        here = Installed(Path(folder))
        bare = here.memory("")
        print("| package | memory, MiB | image, MiB |\n|---|---|---|")
        for name, code in IMPORTS.items():
            others = (here.closure(one) for one in IMPORTS if name not in here.closure(one))
            alone = here.closure(name).difference(set(IMPORTS) - {name}, *others)
            size = sum(map(here.size, alone))
            print(f"| {name} | {here.memory(code) - bare:.1f} | {size:.1f} |", flush=True)
        print(f"all: {sum(map(here.size, here.packages)):.1f} MiB; a bare Python: {bare:.1f} MiB of memory")


if __name__ == "__main__":
    main()
