"""The Go exporter of the benchmark is compared only where it serves the same series: so its families must be ours."""

import re
from pathlib import Path

from exporter.metrics import counters, endpoints, maps

COLLECTOR = Path(__file__).parents[2] / "bench/peer/collector.go"
OURS = {family.name: family.labels for module in (counters, endpoints, maps) for family in module.FAMILIES}
_DESC = re.compile(r'= (counterDesc|desc)\("(\w+)",\s*"[^"]*"((?:,\s*"\w+")*)\)')


def test_the_families_of_the_peer_have_the_labels_of_ours():
    by_pod = ["interface", "hook", "direction", "namespace", "pod"]
    theirs = {
        f"calico_bpf_{name}": [*(by_pod if kind == "counterDesc" else []), *re.findall(r"\w+", labels)]
        for kind, name, labels in _DESC.findall(COLLECTOR.read_text(encoding="utf-8"))
    }
    both = OURS.keys() & theirs.keys()
    assert 18 == len(both)
    assert {name: list(OURS[name]) for name in both} == {name: theirs[name] for name in both}
