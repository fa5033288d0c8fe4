"""Options: every one can come from the environment, under the name that the contract gives it."""

import click
import pytest

from exporter.cli.main import COMMANDS, program
from exporter.cli.options import taken_node_options

# Those that every command shares that reads the node; the others carry their command in the variable's name.
SHARED = {
    "bpf.fs", "bpf.reader", "calico.run-dir", "calico.interface-prefix", "calico.layout-file", "bundle",
    "kubernetes", "kubernetes.node", "kubernetes.kubeconfig", "log.level", "log.format",
}  # fmt: skip
HERE = "v3.32.1/05-eot-egress-deny.after"
KUBERNETES = ("kubernetes", "kubernetes_node", "kubernetes_kubeconfig")


# A command remembers how it was asked for help first: alone it would not know -h.
WHOLE_PROGRAM = click.Context(program, **program.context_settings)


def options():
    """(command, flag, option) for every option of every command."""
    context = click.Context(program)
    for name in COMMANDS:
        command = program.get_command(context, name)
        for option in command.params:
            if isinstance(option, click.Option):
                yield name, max(option.opts, key=len).removeprefix("--"), option


@pytest.mark.parametrize(
    ("command", "flag", "option"), list(options()), ids=lambda one: one if isinstance(one, str) else ""
)
def test_every_option_of_every_command_has_its_variable(command, flag, option):
    words = ["calico", "bpf", "exporter", *([] if flag in SHARED else [command]), flag]
    variable = "_".join(words).replace(".", "_").replace("-", "_").upper()
    given = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    assert variable in given
    assert option.show_envvar
    assert option.help


def test_no_two_options_of_a_command_share_a_variable():
    for name in COMMANDS:
        given = [str(option.envvar) for command, _, option in options() if command == name]
        assert sorted(given) == sorted(set(given))


def parsed(command, *arguments):
    """The parameters that a command would be called with."""
    return (
        program.get_command(WHOLE_PROGRAM, command).make_context(command, list(arguments), parent=WHOLE_PROGRAM).params
    )


@pytest.mark.parametrize(
    ("command", "variable", "value", "parameter", "expected"),
    [
        ("counters", "CALICO_BPF_EXPORTER_BPF_READER", "bpftool", "bpf_reader", "bpftool"),
        (
            "counters",
            "CALICO_BPF_EXPORTER_CALICO_INTERFACE_PREFIX",
            "eni azv",
            "calico_interface_prefix",
            ("eni", "azv"),
        ),
        ("counters", "CALICO_BPF_EXPORTER_COUNTERS_NONZERO", "1", "nonzero", True),
        ("counters", "CALICO_BPF_EXPORTER_COUNTERS_NONZERO", "false", "nonzero", False),
        ("counters", "CALICO_BPF_EXPORTER_COUNTERS_INTERFACE", "eth0 lo", "interface", ("eth0", "lo")),
        ("counters", "CALICO_BPF_EXPORTER_COUNTERS_OUTPUT", "json", "output", "json"),
        ("scrape", "CALICO_BPF_EXPORTER_SCRAPE_FORMAT", "openmetrics", "format", "openmetrics"),
        ("check", "CALICO_BPF_EXPORTER_CHECK_OUTPUT", "json", "output", "json"),
        ("check", "CALICO_BPF_EXPORTER_LOG_LEVEL", "error", "log_level", "error"),
        ("serve", "CALICO_BPF_EXPORTER_LOG_FORMAT", "json", "log_format", "json"),
        (
            "serve",
            "CALICO_BPF_EXPORTER_SERVE_WEB_LISTEN_ADDRESS",
            ":1 [::1]:2",
            "web_listen_address",
            (":1", "[::1]:2"),
        ),
        ("serve", "CALICO_BPF_EXPORTER_SERVE_WEB_MAX_REQUESTS", "7", "web_max_requests", 7),
        (
            "serve",
            "CALICO_BPF_EXPORTER_SERVE_WEB_DISABLE_EXPORTER_METRICS",
            "true",
            "web_disable_exporter_metrics",
            True,
        ),
        ("serve", "CALICO_BPF_EXPORTER_SERVE_COLLECTOR_COUNTERS_ZEROS", "none", "collector_counters_zeros", "none"),
        ("serve", "CALICO_BPF_EXPORTER_SERVE_COLLECTOR_MAPS", "false", "collector_maps", False),
        ("serve", "CALICO_BPF_EXPORTER_SERVE_COLLECTOR_MAPS", "true", "collector_maps", True),
        ("serve", "CALICO_BPF_EXPORTER_SERVE_COLLECTOR_DISABLE_DEFAULTS", "1", "collector_disable_defaults", True),
    ],
)
def test_a_variable_is_as_good_as_its_flag(monkeypatch, command, variable, value, parameter, expected):
    monkeypatch.setenv(variable, value)
    assert expected == parsed(command)[parameter]


def test_a_flag_wins_over_its_variable(monkeypatch):
    monkeypatch.setenv("CALICO_BPF_EXPORTER_BPF_FS", "/one")
    monkeypatch.setenv("CALICO_BPF_EXPORTER_SERVE_COLLECTOR_MAPS", "false")
    params = parsed("serve", "--bpf.fs", "/two", "--collector.maps")
    assert ("/two", True) == (str(params["bpf_fs"]), params["collector_maps"])


def test_a_collector_that_nothing_is_said_about_is_neither_on_nor_off():
    assert {None} == {
        value for name, value in parsed("serve").items() if name in ("collector_maps", "collector_counters")
    }


def test_the_defaults_are_the_contracts():
    serve, counters = parsed("serve"), parsed("counters")
    assert (":10042",) == serve["web_listen_address"]
    assert ("/metrics", 40, 0.5, "core") == (
        serve["web_telemetry_path"],
        serve["web_max_requests"],
        serve["web_timeout_offset"],
        serve["collector_counters_zeros"],
    )
    assert ("/sys/fs/bpf", "/var/run/calico") == (str(counters["bpf_fs"]), str(counters["calico_run_dir"]))
    assert (("cali",), "auto", None, ()) == tuple(
        counters[name] for name in ("calico_interface_prefix", "bpf_reader", "calico_layout_file", "bundle")
    )


@pytest.mark.parametrize("command", ["serve", "bundle"])
def test_a_bundle_is_not_offered_where_only_a_node_will_do(run, recording, tmp_path, command):
    arguments = [tmp_path / "out"] if command == "bundle" else []
    result = run(command, "--bundle", recording(HERE), *arguments)
    assert 2 == result.exit_code
    assert "--bundle" in result.stderr


def test_the_variable_of_the_bundle_reaches_every_command_that_can_read_one(run, recording):
    env = {"CALICO_BPF_EXPORTER_BUNDLE": str(recording(HERE))}
    assert [0, 0, 0] == [run(one, env=env).exit_code for one in ("counters", "scrape", "check")]


def test_interface_prefixes_can_be_one_text_as_in_a_felixconfiguration_and_none_is_empty(run, recording):
    given = {"calico_interface_prefix": ("cali", "eni, azv")}
    names = ("bpf_fs", "bpf_reader", "calico_run_dir", "calico_layout_file", *KUBERNETES)
    assert ("cali", "eni", "azv") == taken_node_options(dict.fromkeys(names) | given, bundles=0).prefixes
    for empty in ("", "cali,"):
        result = run("check", "--bundle", recording(HERE), "--calico.interface-prefix", empty)
        assert (2, True) == (result.exit_code, "--calico.interface-prefix is empty" in result.stderr)
