"""What `serve` imports and what its memory is made of, printed as Markdown tables: part of `make bench`.

`serve` runs over real pinned maps, links and routes with the API server asked, once as it is and once noting which
modules have a function that ran outside any import until scrapes had been answered. Then what it imported is imported
again in the same order, one module after the other, to see what each adds to the resident memory. What several packages
share is on the account of the first; where a package only gives classes or compiled code, nothing is seen to run. Needs
root.
"""

import atexit
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, ModuleType

PODS = (250, 1000)
SCRAPES = 50
PORT = 10944


# Imports the modules named on its input, one after the other, and says of each what it adds by itself. Those after a
# minus sign it takes for not installed; of those after a plus sign the exporter skips the `__init__`.
ONE_BY_ONE = """
import importlib, importlib.machinery, os, sys, time
def resident():
    with open('/proc/self/statm', 'rb') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1024
def watch(loader, method):
    original = getattr(loader, method)
    def noted(self, what):
        stack.append((0, 0))
        memory, start = resident(), time.perf_counter()
        try:
            return original(self, what)
        finally:
            grown, took = resident() - memory, (time.perf_counter() - start) * 1000
            inner = stack.pop()
            name = what.name if method == 'create_module' else what.__name__
            before = found.get(name, (0, 0))
            found[name] = before[0] + grown - inner[0], before[1] + took - inner[1]
            if stack:
                stack[-1] = stack[-1][0] + grown, stack[-1][1] + took
    setattr(loader, method, noted)
stack, found = [], {}
watch(importlib.machinery.SourceFileLoader, 'exec_module')
watch(importlib.machinery.ExtensionFileLoader, 'exec_module')
watch(importlib.machinery.ExtensionFileLoader, 'create_module')
names = sys.stdin.read().split()
from exporter.light_imports import skip_init
bare = resident()
for name in names:
    if name.startswith('-'):
        sys.modules[name[1:]] = None
        continue
    if name.startswith('+'):
        skip_init(name[1:])
        continue
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # some put modules in place that no finder finds
import json
print(json.dumps([bare, found]))
"""


def noted(file: Path, words: list[str]) -> None:
    """Runs the exporter with these words; at its end writes what is imported, in order, and where functions ran."""
    ran: set[str] = set()

    def called(frame: FrameType, event: str, _: object) -> None:
        caller: FrameType | None = frame
        while caller and caller.f_globals.get("__name__") != "importlib._bootstrap":
            caller = caller.f_back
        if event == "call" and caller is None:
            ran.add(frame.f_globals.get("__name__", ""))

    def write() -> None:
        sys.setprofile(None)
        absent = [f"-{name}" for name, module in sys.modules.items() if module is None]
        skipped = [f"+{name}" for name, module in sys.modules.items() if module and init_is_skipped(module)]
        file.write_text(json.dumps([absent + skipped + list(sys.modules), sorted(ran)]), encoding="utf-8")

    atexit.register(write)
    threading.setprofile(called)
    sys.setprofile(called)
    sys.argv = ["calico-bpf-exporter", *words]
    from exporter.cli.main import main as exporter

    exporter()


def init_is_skipped(package: ModuleType) -> bool:
    """Whether the exporter imported modules of this package without its `__init__`."""
    return type(vars(package).get("__getattr__")).__module__ == "exporter.light_imports"


def main() -> None:
    """Prints the tables."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    from api_server import api_server
    from network import private_network
    from scrape import address_of, made_node, name_of, pod_of

    for count in PODS:
        pods = [pod_of(index) for index in range(count)]
        with (
            made_node(count) as (bpf_fs, run_dir),
            private_network({name_of(index): address_of(index) for index in range(count)}),
            tempfile.TemporaryDirectory() as folder,
            api_server(pods, address_of, Path(folder)) as kubeconfig,
        ):
            node = [f"--bpf.fs={bpf_fs}", f"--calico.run-dir={run_dir}", "--log.level=error"]
            words = ["serve", *node, f"--web.listen-address=127.0.0.1:{PORT}"]
            asked_for = ["--kubernetes.node=node", f"--kubernetes.kubeconfig={kubeconfig}"]
            for more in (["--no-kubernetes"], asked_for):
                all_of_it = scraped([sys.executable, "-m", "exporter", *words, *more])
                print(f"{count} pods, serve {more[0]}: {all_of_it:.1f} MiB resident after {SCRAPES} scrapes")
            file = Path(folder) / "notes"
            # It writes its notes at its end, which user 10042 may not.
            scraped([sys.executable, __file__, str(file), *words, *asked_for, "--no-security.drop-capabilities"])
            imported, ran = json.loads(file.read_text(encoding="utf-8"))
            print_table(imported, set(ran), all_of_it)


def scraped(words: list[str]) -> float:
    """Resident MiB of a server after some scrapes."""
    from scrape import resident

    with subprocess.Popen(words) as server:
        try:
            until = time.monotonic() + 60
            for _ in range(SCRAPES):
                while not asked() and time.monotonic() < until:
                    time.sleep(0.05)
            return resident(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)


def asked() -> bool:
    """Whether a scrape succeeded."""
    client = http.client.HTTPConnection("127.0.0.1", PORT)
    try:
        client.request("GET", "/metrics")
        return bool(client.getresponse().read())
    except (ConnectionError, http.client.HTTPException):
        return False
    finally:
        client.close()


def print_table(imported: list[str], ran: set[str], all_of_it: float) -> None:
    """Memory by package, and of it what modules hold of which nothing ran."""
    names = "\n".join(one for one in imported if one != "__main__")
    done = subprocess.run([sys.executable, "-c", ONE_BY_ONE], input=names, capture_output=True, text=True, check=True)
    bare, modules = json.loads(done.stdout)
    packages: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        packages[package_of(module)].append(module)

    def total(names: Iterable[str], what: int) -> float:
        return float(sum(modules[one][what] for one in names))

    print()
    row("package", "modules", "MiB", "ms", "of which nothing ran", "MiB")
    row(*["---"] * 6)
    row("bare interpreter", "", f"{bare / 1024:.1f}", "", "", "")
    for name in sorted(packages, key=lambda name: total(packages[name], 0), reverse=True):
        idle = [one for one in packages[name] if one not in ran]
        figures = f"{total(packages[name], 0) / 1024:.1f}", f"{total(packages[name], 1):.0f}"
        row(name, len(packages[name]), *figures, len(idle), f"{total(idle, 0) / 1024:.1f}")
    rest = all_of_it - (bare + total(modules, 0)) / 1024
    row("links, pods, maps, lines, buffers", "", f"{rest:.1f}", "", "", "")
    row("all", "", f"{all_of_it:.1f}", f"{total(modules, 1):.0f}", "", "")
    idle = sorted((one for one in modules if one not in ran), key=lambda one: -modules[one][0])
    print("\nLargest of which nothing ran:", ", ".join(f"{one} {modules[one][0]:.0f} KiB" for one in idle[:30]), "\n")


def package_of(module: str) -> str:
    """The package that a module belongs to."""
    first = module.partition(".")[0]
    return "standard library" if first in sys.stdlib_module_names else first


def row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        noted(Path(sys.argv[1]), sys.argv[2:])
    else:
        main()
