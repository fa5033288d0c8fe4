"""Runs the programs that the tests need of the machine: a compiler, bpftool, iproute2, and the exporter itself."""

import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests import installed

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(*words, check: bool = True, **more) -> subprocess.CompletedProcess:
    """Runs a program to its end; a failure shows what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **more)
    assert not check or done.returncode == 0, f"{words} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done


def bpftool(*words):
    """The answer of bpftool as JSON, None where it says nothing."""
    out = run("bpftool", "--json", *words).stdout
    return json.loads(out) if out.strip() else None


@contextmanager
def interfaces(names: Mapping[int, str]) -> Iterator[None]:
    """Interfaces of this machine with these indices and names, down and without packets, while this lasts."""
    made = []
    try:
        for index, name in names.items():
            run("ip", "link", "add", name, "index", index, "type", "veth", "peer", f"peer{index}")
            made.append(name)
        yield
    finally:
        for name in made:
            run("ip", "link", "delete", name)


def compile_bpf(source: Path, target: Path) -> None:
    include = f"/usr/include/{platform.machine()}-linux-gnu"
    run("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", f"-I{include}", "-c", source, "-o", target)


def load_programs(obj: Path, folder: Path, counters: Path) -> None:
    """Loads counting.c's programs, which then count in the map pinned at `counters`, and pins them in `folder`."""
    folder.mkdir()
    run("bpftool", "prog", "loadall", obj, folder, "map", "name", "cali_counters6", "pinned", counters)


def exporter(*words, prefix=(), **more) -> subprocess.CompletedProcess:
    """Runs a command of the exporter to its end."""
    return run(*prefix, installed.program(), *words, check=False, cwd=ROOT, **more)


def open_descriptors(process: int | str = "self") -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


class Serving:
    """`serve` in a process of its own, with `more` flags, started with `prefix` (a namespace's `ip netns exec`).

    `program` are other words than those of the installed program.
    """

    def __init__(
        self,
        bpf_fs: Path,
        run_dir: Path,
        log: Path,
        *,
        prefix=(),
        address="127.0.0.1:0",
        more=(),
        program=(),
    ):
        self.prefix, self.log = prefix, log
        words = ["serve", "--bpf.fs", bpf_fs, "--calico.run-dir", run_dir, "--web.listen-address", address, *more]
        command = [*prefix, *map(str, (*(program or [installed.program()]), *words))]
        with log.open("w") as errors:
            self.process = subprocess.Popen(command, stderr=errors, cwd=ROOT)
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.end()
            raise

    def _wait_for_port(self) -> int:
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.log.read_text().splitlines():
                if "listening on" in line:
                    return int(line.partition(" port ")[2].split()[0])
            time.sleep(0.02)
        raise AssertionError(f"the exporter does not listen: {self.log.read_text()}")

    def get(self, path: str = "/metrics") -> tuple[int, str]:
        """Status and body of one request, made where the server is."""
        url = f"http://127.0.0.1:{self.port}{path}"
        body, _, status = run(*self.prefix, "curl", "-sS", "-w", "\n%{http_code}", url).stdout.rpartition("\n")
        return int(status), body

    def scrape(self) -> dict:
        """The samples of one scrape, which must be HTTP 200."""
        status, body = self.get()
        assert status == 200, body
        return samples_of(body)

    def end(self) -> None:
        installed.end(self.process)


def steady_descriptors(pid: int) -> int:
    """The open ones once a connection that its client has left is closed, which takes a moment."""
    counts = [-1]
    until = time.monotonic() + 5
    while (len(counts) < 10 or len(set(counts[-10:])) > 1) and time.monotonic() < until:
        counts.append(open_descriptors(pid))
        time.sleep(0.02)
    return counts[-1]


def samples_of(text: str) -> dict[tuple[str, frozenset], float]:
    """Samples by name and labels; two with equal labels are an error."""
    found: dict[tuple[str, frozenset], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def sample(name: str, **labels: str) -> tuple[str, frozenset]:
    """The key under which `samples_of` keeps a sample."""
    return name, frozenset(labels.items())


def success(samples: dict) -> dict[str, float]:
    """Which collectors did well in a scrape."""
    name = "calico_bpf_scrape_collector_success"
    return {dict(labels)["collector"]: value for (found, labels), value in samples.items() if found == name}


def labels_of(samples: dict, name: str) -> list[dict[str, str]]:
    """The label sets of all samples called `name`."""
    return [dict(labels) for found, labels in samples if found == name]
