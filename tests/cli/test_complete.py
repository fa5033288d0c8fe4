"""Completion candidates as the scripts of the shells request them; test_shells.py has the shells themselves."""

import logging
import os
import subprocess
from functools import partial
from urllib.parse import quote

import pytest

from exporter.bpf.maps import MapDenied, unchecked
from exporter.cli import snapshots
from exporter.cli.main import COMMANDS, COMPLETE, PROGRAM, program
from exporter.cli.shells import _Bash, _Fish
from exporter.snapshot.memory import Memory
from tests import installed

HERE = "v3.32.1/02-ingress-deny.after"
PODS = ["ns-a/client", "ns-b/server", "ns-c/plain", "ns-d/open"]
OTHER = "k8s ns-x%2Fother eth0"
UNSAFE = ["$(reboot)", "a b", "a;b", "-x", "*", "a\nb", "a\x1b[2Jb", "a\u202eb", "'", "~root", "a\tb", "\\x"]


@pytest.fixture
def offered(monkeypatch, capfd):
    """The words offered for a line with the cursor at ▮ or at its end; nothing else is printed."""

    def ask(line, shell=_Fish, replaced=""):
        before, _, after = line.partition("▮")
        for name, value in (("BEFORE", before), ("AFTER", after), ("REPLACED", replaced)):
            monkeypatch.setenv(f"COMP_{name}", f"{PROGRAM} {value}" if name == "BEFORE" else value)
        answer = shell(program, {}, PROGRAM, COMPLETE).complete()
        assert ("", "") == tuple(capfd.readouterr())
        return [line.split("\t")[1] for line in answer.splitlines()]

    yield ask
    logging.disable(logging.NOTSET)  # restore it: normally the process would have ended


@pytest.fixture
def bundle(recording):
    return recording(HERE)


def test_commands_flags_and_choices_are_offered(offered):
    assert list(COMMANDS) == offered("")
    assert ["check", "conntrack", "counters"] == sorted(offered("c"))
    assert ["--log.level", "--log.format"] == offered("counters --log")
    assert ["table", "json"] == offered("counters -o ")
    assert ["inbound"] == offered("policy --direction in")
    assert ["--direction=inbound", "--direction=outbound", "--direction=all"] == offered("policy --direction=")
    assert ["debug"] == offered("why --pod x --log.level d")


@pytest.mark.parametrize("command", ["counters", "policy", "why"])
def test_endpoints_are_offered_from_the_bundle_on_the_line(offered, bundle, command):
    assert PODS == offered(f"{command} --bundle {bundle} --pod ")
    assert PODS == offered(f"{command} --bundle {bundle} --bundle {bundle} --pod ")
    assert ["cali34769d6a557"] == offered(f"{command} --bundle={bundle} --interface cali3")
    assert ["10.65.0.3"] == offered(f"{command} --bundle={bundle} --ip 10.65.0.3")
    assert ["fd00:65::3"] == offered(f"{command} --bundle={bundle} --ip fd00:65::3")
    assert ["--ip=fd00:65::3"] == offered(f"{command} --bundle={bundle} --ip=fd00:65::3")


def test_of_conntrack_too_endpoints_are_offered(offered, bundle):
    assert PODS == offered(f"conntrack --bundle {bundle} --pod ")
    assert ["table", "json"] == offered("conntrack -o ")


def test_a_pod_is_offered_by_the_beginning_of_its_name_too(offered, bundle):
    assert ["ns-b/server"] == offered(f"counters --bundle {bundle} --pod ns-b/")
    assert ["server"] == offered(f"counters --bundle {bundle} --pod se")
    assert ["--pod=server"] == offered(f"counters --bundle {bundle} --pod=se")
    assert [] == offered(f"counters --bundle {bundle} --pod erver")


def test_a_name_that_two_namespaces_have_is_offered_once_and_by_each(offered, changed, named):
    path = changed(HERE, named("k8s ns-x%2Fserver eth0", "k8s ns-y%2Fserver eth0"))
    assert ["ns-x/server", "ns-y/server"] == offered(f"counters --bundle {path} --pod n")
    assert ["server"] == offered(f"counters --bundle {path} --pod server")


def test_what_stands_behind_the_cursor_counts(offered, bundle):
    assert PODS == offered(f"counters --pod ▮ --bundle {bundle}")
    assert PODS[1:2] == offered(f"counters --pod ns-b/▮er --bundle={bundle} --nonzero")
    assert PODS == offered(f"counters --pod ▮ --bundle {bundle} -- --bundle /nonexistent")


def test_the_words_are_taken_as_a_shell_takes_them(offered, bundle, tmp_path, monkeypatch):
    copied = tmp_path / "a b"
    copied.symlink_to(bundle)
    monkeypatch.setenv("HOME", str(tmp_path))
    spaced = str(copied).replace(" ", "\\ ")
    for word in (f"'{copied}'", f'"{copied}"', spaced, "~/a\\ b", "$HOME/a\\ b", '"$HOME/a b"'):
        assert PODS == offered(f"counters --bundle {word} --pod ")
        assert ["ns-b/server"] == offered(f"counters --bundle {word} --pod 'ns-b/s")


def test_variables_before_the_command_are_none_of_its_words(monkeypatch, offered, bundle):
    monkeypatch.setenv("COMP_BEFORE", f"A=1 B= {PROGRAM} counters --bundle {bundle} --pod ns-b/")
    assert "plain\tns-b/server" == _Fish(program, {}, PROGRAM, COMPLETE).complete()


def test_a_bundle_that_the_environment_names_is_one(monkeypatch, offered, bundle):
    monkeypatch.setenv("CALICO_BPF_EXPORTER_BUNDLE", str(bundle))
    assert PODS == offered("counters --pod ")


@pytest.mark.parametrize(
    ("line", "replaced", "expected"),
    [
        ("--ip fd00:65::", "", ["2", "3", "4", "5"]),
        ("--ip fd00:65::3", "3", ["3"]),
        ("--ip fd0", "fd0", ["fd00:65::2", "fd00:65::3", "fd00:65::4", "fd00:65::5"]),
        ('--ip "fd00:65::3', "fd00:65::3", ["fd00:65::3"]),
        ("--pod=ns-b/s", "ns-b/s", ["ns-b/server"]),
        ("--pod=", "", PODS),
        ("--pod ns-b/s", "ns-b/s", ["ns-b/server"]),
    ],
)
def test_bash_is_told_only_the_part_of_a_word_that_it_replaces(offered, bundle, line, replaced, expected):
    assert expected == offered(f"counters --bundle {bundle} {line}", _Bash, replaced)


def test_a_name_that_a_shell_or_a_terminal_would_act_on_is_not_offered(offered, changed, named):
    names = [quote(name, safe="") for name in UNSAFE]
    for first, second in zip(names[::2], names[1::2], strict=True):
        path = changed(HERE, named(f"k8s ns-x%2F{first} eth0", f"k8s {second}%2Fpod eth0", OTHER))
        assert ["ns-x/other"] == offered(f"counters --bundle {path} --pod ")
        assert not offered(f"counters --bundle {path} --pod '{first[:1]}")


@pytest.mark.parametrize(
    "line",
    [
        "counters --bundle {none} --pod ",
        "counters --bundle {damaged} --pod ",
        "counters --bundle {bundle} --bundle {bundle} --bundle {bundle} --pod ",
        "counters --bundle {bundle} --calico.layout-file {none} --ip ",
        "counters --bundle {bundle} --nosuch --top x --pod nosuch",
        "counters --bpf.fs {none} --pod ",
        "counters --bpf.fs {none} --interface ",
    ],
)
def test_an_error_offers_nothing_and_says_nothing(offered, bundle, tmp_path, line):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bundle.read_bytes()[:2000])
    assert [] == offered(line.format(none=tmp_path / "none", damaged=damaged, bundle=bundle))


def test_even_a_bug_offers_nothing_and_says_nothing(monkeypatch, offered, bundle):
    monkeypatch.setattr(snapshots, "open_source", lambda options: 1 / 0)
    assert [] == offered(f"counters --bundle {bundle} --pod ")


class Watched:
    """A node that records what is read from it; access to Calico's maps may be denied."""

    def __init__(self, bundle, *, denied=False):
        self.bundle, self.denied, self.asked = bundle, denied, []

    def __getattr__(self, name):
        fact = getattr(self.bundle, name)
        return partial(self._ask, name, fact) if callable(fact) else fact

    def _ask(self, name, fact, *arguments):
        self.asked.append(name)
        return fact(*arguments)

    def map_dump(self, name, *, sum_cpus=False, check=unchecked):
        self.asked.append(name)
        if self.denied:
            raise MapDenied("run as root")
        return self.bundle.map_dump(name, sum_cpus=sum_cpus, check=check)


@pytest.fixture
def watched(monkeypatch, bundle):
    def begin(**more):
        one = Watched(snapshots.open_source(node_options(bundle))[0], **more)
        monkeypatch.setattr(snapshots, "open_source", lambda options: (one, Memory()))
        return one

    return begin


def node_options(bundle):
    from exporter.cli.options import NodeOptions

    return NodeOptions(None, "auto", None, ("cali",), None, bundle)


def test_on_a_node_no_counters_and_no_policy_files_are_read(watched, offered):
    one = watched()
    assert PODS == offered("counters --pod ")
    assert {"pin_names", "cali_iface4", "links", "host_routes", "endpoint_status", "cluster_pods"} == set(one.asked)


def test_without_the_right_to_calicos_maps_nothing_is_offered(watched, offered):
    watched(denied=True)
    assert [] == offered("counters --pod ")
    assert [] == offered("counters --interface ")


def test_the_api_server_is_not_waited_for(monkeypatch, offered, bundle):
    asked = []
    monkeypatch.setattr(snapshots, "open_source", asked.append)
    offered("counters --kubernetes --kubernetes.kubeconfig /nonexistent --pod ")
    assert [False] == [options.kubernetes for options in asked]


def test_in_a_process_of_its_own_it_prints_nothing_else(bundle):
    line = f"{PROGRAM} counters --bundle {bundle} --pod "
    environment = {**os.environ, COMPLETE: "fish_complete", "COMP_BEFORE": line, "COMP_AFTER": ""}
    done = subprocess.run([installed.program()], env=environment, capture_output=True, text=True, check=True)
    assert ("\n".join(f"plain\t{pod}" for pod in PODS) + "\n", "") == (done.stdout, done.stderr)
    environment["COMP_BEFORE"] = f"{PROGRAM} counters --bundle /nonexistent --pod "
    done = subprocess.run([installed.program()], env=environment, capture_output=True, text=True, check=True)
    assert ("\n", "") == (done.stdout, done.stderr)
