"""`serve`: which collectors the flags leave on, what cannot be served, and the program itself without a Calico."""

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import click
import pytest

from exporter.cli import serving
from exporter.cli.main import program
from exporter.cli.serve import collector_options, enabled_collectors
from exporter.cli.serving import count_interval
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.scrape import COLLECTOR_NAMES, ON_BY_DEFAULT
from tests import installed
from tests.stopwatch import Stopwatch, wait_for_end
from tests.web.authority import Authority
from tests.web.fake_api_server import Answer, FakeApiServer, Raw

# A command remembers how it was asked for help first: alone it would not know -h.
WHOLE_PROGRAM = click.Context(program, **program.context_settings)


def enabled(*flags):
    command = program.get_command(WHOLE_PROGRAM, "serve")
    return enabled_collectors(command.make_context("serve", list(flags), parent=WHOLE_PROGRAM).params)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"counters", "endpoints", "maps"}),
        (["--collector.nic"], {"counters", "endpoints", "maps", "nic"}),
        (["--no-collector.nic"], {"counters", "endpoints", "maps"}),
        (["--no-collector.maps"], {"counters", "endpoints"}),
        (["--collector.maps"], {"counters", "endpoints", "maps"}),
        (["--collector.maps", "--no-collector.maps"], {"counters", "endpoints"}),
        (["--no-collector.maps", "--collector.maps"], {"counters", "endpoints", "maps"}),
        (["--collector.disable-defaults", "--collector.counters"], {"counters"}),
        (["--collector.disable-defaults", "--collector.nic", "--collector.maps"], {"nic", "maps"}),
        (["--collector.disable-defaults", "--no-collector.counters"], set()),
        (["--collector.disable-defaults"], set()),
    ],
)
def test_a_collectors_own_flag_decides_else_the_default(flags, expected):
    others = (
        set() if "--collector.disable-defaults" in flags else set(ON_BY_DEFAULT) - {"counters", "endpoints", "maps"}
    )
    assert expected | others == set(enabled(*flags))


@pytest.mark.parametrize("name", COLLECTOR_NAMES)
def test_every_collector_can_be_switched_on_and_off(name):
    assert name in enabled(f"--collector.{name}")
    assert name not in enabled(f"--no-collector.{name}")


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], CollectorOptions()),
        (["--collector.counters.zeros=all"], CollectorOptions(zeros="all")),
        (["--collector.rules.zeros=none"], CollectorOptions(rules_zeros="none")),
        (["--collector.rules.detail", "policy"], CollectorOptions(rules_detail="policy")),
        (["--collector.rules.unattributed"], CollectorOptions(unattributed=True)),
        (["--kubernetes.workload-labels"], CollectorOptions(workloads=True)),
        (
            ["--collector.counters.namespaces=a", "--collector.counters.namespaces=b"],
            CollectorOptions(namespaces=frozenset("ab")),
        ),
        (["--collector.counters.exclude-namespaces=c"], CollectorOptions(exclude_namespaces=frozenset("c"))),
    ],
)
def test_what_is_said_of_samples_reaches_the_collectors(flags, options):
    command = program.get_command(WHOLE_PROGRAM, "serve")
    assert options == collector_options(command.make_context("serve", flags, parent=WHOLE_PROGRAM).params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--collector.disable-defaults"], "every collector is switched off"),
        (["--web.telemetry-path", "metrics"], "must begin with /"),
        (["--web.telemetry-path", "/"], "not be /, /healthz or /readyz"),
        (["--web.telemetry-path", "/healthz"], "not be /, /healthz or /readyz"),
        (["--web.telemetry-path", ""], "must begin with /"),
        (["--web.max-requests", "-1"], "--web.max-requests"),
        (["--web.max-requests", "many"], "--web.max-requests"),
        (["--web.timeout-offset", "-0.1"], "--web.timeout-offset"),
        (["--web.timeout-offset", "soon"], "--web.timeout-offset"),
        (["--collector.counters.zeros", "some"], "--collector.counters.zeros"),
        (["--collector.rules.zeros", "some"], "--collector.rules.zeros"),
        (["--collector.rules.detail", "pod"], "--collector.rules.detail"),
        (["--collector.maps.interval", "0"], "--collector.maps.interval"),
        (["--collector.maps.interval", "nan"], "must be a number of seconds"),
        (["--collector.nothing"], "--collector.nothing"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(run, arguments, message):
    result = run("serve", *arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


@pytest.mark.parametrize(("took", "interval"), [(0, 15), (0.004, 15), (0.043, 21.5), (0.18, 90), (0.9, 450)])
def test_counting_takes_at_most_a_five_hundredth_of_a_core(took, interval):
    assert interval == pytest.approx(count_interval(took))


@pytest.mark.parametrize(("given", "pause"), [(None, 90.0), (7.0, 7.0)])
def test_maps_are_counted_again_after_the_interval(monkeypatch, given, pause):
    done, slept = [], []

    class Slices:
        async def run_slices(self, steps):
            done.append(list(steps))
            return 0.18

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(serving.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(serving._count_maps(Slices(), [lambda: iter([None] * 2), lambda: iter([None])], given))
    assert ([[None] * 3] * 2, [pause] * 2) == (done, slept)


# Once, the last two: an address whose name cannot be encoded is a UnicodeError, which open_listener does not translate.
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "nowhere",
        ":-1",
        ":70000",
        "192.0.2.1:0",
        "no.such.host.invalid:0",
        "[zz]:0",
        "b\xfccher..example:0",
        "\xfc" * 70 + ":0",
    ],
)
def test_an_address_that_cannot_be_listened_on_is_a_sentence(start, address):
    ended = start("serve", "--web.listen-address", address)
    assert (1, b"") == (ended.returncode, ended.stdout)
    assert b"Traceback" not in ended.stderr
    assert re.fullmatch(rb"Error: .*\n", ended.stderr)


def test_a_port_in_use_is_a_sentence(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = start("serve", "--web.listen-address", "127.0.0.1:0", "--web.listen-address", address)
    assert 1 == ended.returncode
    assert re.fullmatch(rf"Error: cannot listen on {address}: Address already in use\n", ended.stderr.decode())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, r"web.yml cannot be read: No such file or directory"),
        ("basic_auth_user: {}", r"line 1: basic_auth_user is not a known field"),
        ("tls_server_config: {cert_file: c.pem, key_file: k.pem}", r"/c.pem cannot be read: No such file"),
        ("tls_server_config: {cert: PEM, key: PEM}", r"certificate and key cannot be used together: "),
        ("http_server_config: {http2: true}", r"HTTP/2 is not supported"),
        ("tls_server_config: {cert_file: web.empty, key_file: web.empty}", r"used together: .*web.empty"),
    ],
)
def test_a_web_configuration_that_cannot_be_served_ends_the_start_with_a_sentence(start, tmp_path, text, part):
    config = tmp_path / "web.yml"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    config.with_suffix(".empty").touch()
    ended = start("serve", "--web.listen-address", "127.0.0.1:0", "--web.config.file", config)
    assert (1, b"") == (ended.returncode, ended.stdout)
    assert re.fullmatch(rf"Error: the web configuration {config} cannot be served: .*{part}.*\n", ended.stderr.decode())


def test_users_and_authorization_cannot_both_have_the_header(start, tmp_path):
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{bob: $2b$04${'a' * 21}e{'a' * 31}}}", encoding="utf-8")
    ended = start(
        "serve", "--web.listen-address", "127.0.0.1:0", "--web.config.file", config, "--kubernetes.authorization"
    )
    assert 1 == ended.returncode
    assert re.fullmatch(r"Error: .* both use the Authorization header: choose one\n", ended.stderr.decode())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"this process runs in no cluster that it could ask .*; --kubernetes.kubeconfig names one from outside"),
        (
            ("--kubernetes.kubeconfig", "/nowhere/config"),
            r"the kubeconfig /nowhere/config cannot be used: .* not found",
        ),
    ],
)
def test_authorization_without_a_cluster_ends_the_start_with_a_sentence(start, arguments, message):
    ended = start("serve", "--web.listen-address", "127.0.0.1:0", "--kubernetes.authorization", *arguments)
    assert 1 == ended.returncode
    assert re.search(rf"^Error: {message}$", ended.stderr.decode(), re.MULTILINE)


def test_the_image_names_the_port_that_it_serves():
    command = program.get_command(WHOLE_PROGRAM, "serve")
    (listen,) = (one for one in command.params if "--web.listen-address" in one.opts)
    steps = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8")
    assert f"\nEXPOSE {listen.default[0].removeprefix(':')}\n" in steps


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The program serving on a node without Calico, and its port."""
    folder = tmp_path_factory.mktemp("empty")
    arguments = ["--bpf.fs", folder, "--calico.run-dir", folder, "--web.listen-address", "127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALICO_BPF_EXPORTER")}
    command = [installed.program(), "serve", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        for line in process.stderr:
            if found := re.search(rb"listening on 127.0.0.1 port (\d+)", line):
                yield process, int(found[1])
                break
        process.kill()


def get(port, path):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", path)
    response = client.getresponse()
    body = response.read().decode()
    client.close()
    return response.status, body


def test_without_calico_it_serves_says_so_and_is_ready(alone):
    _, port = alone
    status, body = get(port, "/metrics")
    assert 200 == status
    assert 'calico_bpf_scrape_collector_success{collector="counters"} 1\n' in body
    assert "calico_bpf_dataplane_present 0\n" in body
    assert "process_open_fds" in body
    assert (200, "ready\n") == get(port, "/readyz")
    assert 200 == get(port, "/healthz")[0]


def test_it_stops_when_it_is_told_to(alone):
    process, port = alone
    assert 200 == get(port, "/healthz")[0]
    watch = Stopwatch(process.pid)
    process.send_signal(signal.SIGTERM)
    wait_for_end(process.pid)
    assert watch.seconds() < 3
    assert 0 == process.wait()
    assert b"Traceback" not in process.stderr.read()


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose API server knows one pod of node-1, and the kubeconfig for it."""
    monkeypatch.setenv("NO_PROXY", "*")
    fake = FakeApiServer(Authority(tmp_path))
    pod = {"metadata": {"name": "web", "namespace": "ns", "uid": "1"}, "spec": {"nodeName": "node-1"}}
    fake.answers["/api/v1/pods"] = lambda request: (
        Raw([60]) if "watch" in request.query else Answer(200, {"kind": "PodList", "items": [pod]})
    )
    fake.config = fake.kubeconfig(tmp_path / "kubeconfig")
    yield fake
    fake.stop()
    assert [] == fake.faults


def empty_node(tmp_path):
    return ["--bpf.fs", tmp_path, "--calico.run-dir", tmp_path]


def test_a_scrape_knows_the_pods_of_its_node_from_the_api_server(start, cluster, tmp_path):
    flags = ["--kubernetes.kubeconfig", cluster.config, "--kubernetes.node", "node-1"]
    ended = start("bundle", tmp_path / "node.tar.xz", *empty_node(tmp_path), *flags)
    assert b"not in the bundle: pods" not in ended.stderr
    ended = start("scrape", "--bundle", tmp_path / "node.tar.xz")
    assert b"\ncalico_bpf_exporter_pods_last_sync_timestamp_seconds " in ended.stdout
    asked = [request.query for request in cluster.seen]
    assert ["fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0"] == asked


def test_the_api_server_is_not_asked_when_it_is_not_wanted(start, cluster, tmp_path):
    start("scrape", *empty_node(tmp_path), "--kubernetes.kubeconfig", cluster.config, "--no-kubernetes")
    assert [] == cluster.seen


def test_a_dead_api_server_costs_a_command_a_sentence_and_nothing_else(start, cluster, tmp_path):
    cluster.stop()
    ended = start("scrape", *empty_node(tmp_path), "--kubernetes.kubeconfig", cluster.config)
    assert b"calico_bpf_exporter_build_info" in ended.stdout
    assert 1 == ended.stderr.count(b"continuing without the API server's pods: ")


class Handler:
    """Routes that note what they are asked, and hang if they are to."""

    telemetry_path = "/metrics"

    def __init__(self, *, hangs=False):
        self.asked, self.hangs = [], hangs

    async def handle(self, request):
        self.asked.append((request.path, request.headers["accept"]))
        await asyncio.sleep(60 if self.hangs else 0)


@pytest.mark.parametrize("hangs", [False, True])
def test_it_says_that_it_listens_when_a_scrape_of_each_format_is_done_or_hangs(monkeypatch, hangs):
    monkeypatch.setattr(serving, "_WARM_UP_SECONDS", 0.2)
    routes, said = Handler(hangs=hangs), []
    asyncio.run(serving._prepare(routes, lambda: said.append(len(routes.asked))))
    formats = [("/metrics", "text/plain"), ("/metrics", "application/openmetrics-text")]
    assert (formats[: 1 if hangs else 2], [1 if hangs else 2]) == (routes.asked, said)
