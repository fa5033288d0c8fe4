"""Each security profile of the chart, with the filters of system calls that an older and a current runtime have.

The rights are taken from what the chart renders, so this is what the cluster would run.
"""

import subprocess
import time
from pathlib import Path

import pytest

from exporter.confine import KEPT, USER
from tests.image.conftest import Container, built
from tests.kernel.machine import exporter, run, samples_of, success

pytestmark = [pytest.mark.image, pytest.mark.kernel]

PROFILES = ("privileged", "sysadmin", "capabilities")
# The filter of Debian 12's podman is of a time when bpf(2) was CAP_SYS_ADMIN's alone.
OLDER = "/usr/share/containers/seccomp.json"
COMMANDS = (
    ("counters", "--output=json"),
    ("policy", "--output=json"),
    ("check",),
    ("scrape",),
    ("why", "--pod=frontend", "--for=1s"),
)


@pytest.fixture(params=PROFILES)
def profile(request):
    return request.param


@pytest.fixture
def inside(image, demo, profile):
    return Container(image, demo, profile)


def outside(demo, *words):
    """The same command on the node itself, by root with every right."""
    where = ("--bpf.fs", demo.bpf.path, "--calico.run-dir", demo.run_dir)
    return exporter(*words, *where, prefix=("ip", "netns", "exec", demo.namespace))


@pytest.mark.parametrize("reader", ["libbpf", "bpftool"])
def test_check_finds_nothing_missing_whichever_the_reader(inside, reader):
    done = inside.run("check", f"--bpf.reader={reader}")
    states = {line.split()[0] for line in done.stdout.splitlines()}
    assert (0, "", {"ok"}) == (done.returncode, done.stderr, states), done.stdout


def test_the_third_reader_is_there_when_it_is_asked_for(image, demo):
    done = Container(built(f"{image}-bcc", BCC="python3-bpfcc"), demo, "capabilities").run("check", "--bpf.reader=bcc")
    assert (0, {"ok"}) == (done.returncode, {line.split()[0] for line in done.stdout.splitlines()}), done.stdout
    without = Container(image, demo, "capabilities").run("check", "--bpf.reader=bcc")
    assert (1, True) == (without.returncode, "BCC's Python bindings are not installed" in without.stdout)


def test_every_collector_reads_everything(inside, demo):
    name = f"serve-{demo.namespace}"
    command = inside.words(f"--name={name}", inside._image, "serve", *inside.flags)
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as server:
        try:
            samples = samples_of(scraped(demo))
            inner = run("podman", "inspect", "--format={{.State.Pid}}", name).stdout.strip()
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{inner}/status").read_text().splitlines())
        finally:
            run("podman", "stop", "--time=5", name)
            log = server.stderr.read()
    assert {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1, "nic": 1} == success(samples)
    assert [] == [line for line in log.splitlines() if "level=info" not in line]
    totals = {key: value for key, value in samples.items() if key[0] == "calico_bpf_program_packets_total"}
    assert 12 == len(totals)
    assert 0 == server.returncode
    held = int(status["CapEff"], 16)
    assert ([str(USER)] * 4, []) == (status["Gid"].split(), status["Groups"].split())
    assert ([str(USER)] * 4, 0) == (status["Uid"].split(), held & ~sum(1 << number for number in KEPT))
    assert ("1", "2") == (status["NoNewPrivs"], status["Seccomp"])


def scraped(demo):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done = run("ip", "netns", "exec", demo.namespace, "curl", "-sS", "http://127.0.0.1:10042/metrics", check=False)
        if done.returncode == 0:
            return done.stdout
        time.sleep(0.1)
    raise AssertionError(done.stderr)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_every_command_says_what_it_says_on_the_node(inside, demo, words):
    here, there = outside(demo, *words), inside.run(*words)
    assert (here.returncode, here.stderr) == (there.returncode, there.stderr)
    if words[0] in ("counters", "policy"):
        assert here.stdout == there.stdout
    else:
        assert there.stdout


def test_a_bundle_goes_to_standard_output_since_nothing_can_be_written(inside, tmp_path):
    command = [str(word) for word in inside.words(inside._image, "bundle", "-")]
    with (tmp_path / "node.tar.xz").open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    again = exporter("counters", "--bundle", tmp_path / "node.tar.xz")
    assert (0, True) == (again.returncode, "shop/frontend" in again.stdout)
    refused = inside.run("bundle", "/node.tar.xz")
    assert (1, True) == (refused.returncode, "Read-only file system" in refused.stderr)


def test_an_older_filter_stops_cap_bpf_and_the_sentence_names_the_profile_that_goes_on(image, demo, profile):
    done = Container(image, demo, profile, OLDER).run("counters", "--pod=frontend")
    if profile == "capabilities":
        assert 1 == done.returncode
        assert "securityProfile sysadmin" in done.stderr
        assert 1 == len(done.stderr.splitlines())
    else:
        assert (0, "") == (done.returncode, done.stderr)


def test_without_any_right_each_command_is_a_sentence_that_names_a_profile(image, demo):
    bare = Container(image, demo, "capabilities")
    bare._asked["securityContext"]["capabilities"]["add"] = []
    for words in COMMANDS:
        done = bare.run(*words)
        assert 0 != done.returncode
        assert "securityProfile" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_what_a_profile_does_not_have_it_cannot_do(image, demo, profile):
    code = """
import os, socket
for attempt in (lambda: os.mkdir("/x"), lambda: socket.sethostname("x"), lambda: os.mkdir("/sys/fs/bpf/x")):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
"""
    bounded = Container(image, demo, profile)
    command = bounded.words("--entrypoint=/opt/calico-bpf-exporter/bin/python", image, "-c", code)
    printed = run(*command).stdout.splitlines()
    assert "Read-only file system" == printed[0] == printed[-1]
    assert (profile == "capabilities") == ("Operation not permitted" in printed)
