"""`bundle --redact`: every command shows the same of the redacted bundle with other names."""

import json
import tarfile

import pytest

from tests.cli.test_conntrack import bundle as flows  # noqa: F401  # the fixture
from tests.cli.test_trace import options
from tests.nodes import make  # noqa: F401  # the fixture
from tests.recorded import NAMES, PAIRS, Recording
from tests.redacting import Redacted
from tests.traces.experiments import experiments

COMMANDS = (
    ["counters", "-o", "json"],
    ["policy", "--ip-sets", "-o", "json"],
    ["scrape"],
    ["check", "-o", "json"],
)


@pytest.mark.parametrize("name", NAMES)
def test_commands_show_the_same_of_a_redacted_recording(name, run, tmp_path):
    redacted = Redacted(Recording(name).members, tmp_path)
    for command in COMMANDS:
        redacted.same(run, *command)


@pytest.mark.parametrize("name", PAIRS)
def test_two_redacted_bundles_of_a_node_can_be_compared(name, run, tmp_path):
    one, two = (Recording(f"{name}.{when}") for when in ("before", "after"))
    for when in ("one", "two"):
        (tmp_path / when).mkdir()
    first, second = Redacted(one.members, tmp_path / "one"), Redacted(two.members, tmp_path / "two")
    second.names.replaced |= first.names.replaced
    pod = json.loads(run("counters", "-o", "json", "--bundle", second.before).stdout)["endpoints"][0]
    selector = ["--pod", f"{pod['namespace']}/{pod['pod']}"] if pod["pod"] else ["--interface", pod["interface"]]
    for command in (["why", *selector], ["counters"], ["policy", "--nonzero"]):
        second.same(run, *command, "-o", "json", earlier=first)


@pytest.mark.parametrize("name", experiments())
def test_trace_decides_the_same_in_a_redacted_bundle(name, run, tmp_path):
    experiment = experiments()[name]
    redacted = Redacted(experiment._members, tmp_path)
    assert experiment.case["expected"]
    redacted.same(run, "trace", *options(experiment), "-o", "json")


def test_conntrack_shows_the_same_of_a_redacted_bundle(run, flows, tmp_path):  # noqa: F811
    with tarfile.open(flows) as archive:
        members = {one.name: archive.extractfile(one).read() for one in archive}
    redacted = Redacted(members, tmp_path)
    redacted.same(run, "conntrack")
    assert "denied" in redacted.same(run, "conntrack", "--pod", "ns-b/server")
