"""The plugin offers each flag of the exporter's commands that means anything through it, as the exporter spells it."""

import click
import pytest

from exporter.cli.main import program as exporters
from exporter.kubectl.flags import ForwardedFlag
from exporter.kubectl.plugin import program

# The plugin selects the endpoint itself; where the node's data is depends on the pod.
THERE = {
    "--interface", "--pod", "--ip", "--bundle", "--bpf.fs", "--bpf.reader", "--calico.run-dir", "--log.level",
    "--calico.interface-prefix", "--calico.layout-file", "--kubernetes", "--kubernetes.node", "--kubernetes.kubeconfig",
    "--log.format",
}  # fmt: skip
PASSING = ("counters", "policy", "why", "conntrack", "check")


def options(group, command):
    found = group.get_command(click.Context(group), command).params
    return {max(one.opts, key=len): one for one in found if isinstance(one, click.Option)}


def passed(command):
    return {flag: one for flag, one in options(program, command).items() if isinstance(one, ForwardedFlag)}


@pytest.mark.parametrize("command", PASSING)
def test_the_flags_are_those_of_the_exporter_s_command(command):
    assert set(options(exporters, command)) - THERE == set(passed(command))


@pytest.mark.parametrize("command", PASSING)
def test_a_flag_takes_what_it_takes_there(command):
    there = options(exporters, command)
    for flag, one in passed(command).items():
        assert (there[flag].opts, there[flag].is_flag) == (one.opts, one.is_flag)
        assert (there[flag].flag_value is None) == (one.flag_value is None)
        if isinstance(there[flag].type, click.Choice):
            assert list(there[flag].type.choices) == list(one.type.choices)


def test_trace_has_the_flags_of_the_exporter_s_command_but_for_its_ends():
    there = set(options(exporters, "trace")) - THERE - {"--from", "--to"}
    assert there <= set(options(program, "trace"))
    assert there - {"--port", "--protocol", "--output"} == set(passed("trace"))


@pytest.mark.parametrize("command", [*PASSING, "trace", "top", "bundle"])
def test_every_flag_says_what_it_is_for_and_none_is_named_twice(command):
    names = [name for one in options(program, command).values() for name in one.opts]
    assert sorted(names) == sorted(set(names))
    assert all(one.help for one in options(program, command).values())
