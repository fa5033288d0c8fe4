"""`check`: what is needed, what was found, and what to do about what is missing."""

import json

import pytest

from exporter.bpf.maps import ReaderMissing

HERE = "v3.32.1/05-eot-egress-deny.after"


def findings(result):
    return {one["subject"]: one for one in json.loads(result.stdout)}


@pytest.mark.parametrize("release", ["v3.29.7", "v3.30.7", "v3.31.6", "v3.32.1"])
def test_a_healthy_node_lacks_nothing(run, recording, release):
    result = run("check", "--bundle", recording(f"{release}/05-eot-egress-deny.after"))
    assert (0, "") == (result.exit_code, result.stderr)
    assert not any(line.startswith("missing") for line in result.stdout.splitlines())


def test_text_and_json_say_the_same(run, recording):
    text = run("check", "--bundle", recording(HERE)).stdout
    told = findings(run("check", "-o", "json", "--bundle", recording(HERE)))
    assert len(told) == len(text.splitlines())
    for subject, one in told.items():
        assert any(
            line.startswith(one["state"]) and subject in line and one["found"] in line for line in text.splitlines()
        )
        assert {"subject", "state", "found", "remedy"} == set(one)
    assert {"ok"} == {one["state"] for one in told.values()}


def test_what_a_node_can_do_without_is_a_note_with_its_remedy(run, recording):
    result = run("check", "-o", "json", "--bundle", recording("v3.29.7/05-eot-egress-deny.after"))
    pods = findings(result)["pod names"]
    assert (0, "note") == (result.exit_code, pods["state"])
    assert "endpointStatusPathPrefix" in pods["remedy"]


def test_an_empty_folder_is_exit_1_with_remedies(run, tmp_path):
    arguments = ["check", "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path]
    text, told = run(*arguments), findings(run(*arguments, "-o", "json"))
    assert 1 == text.exit_code
    for subject in ("pinned maps", "counter map", "interface state"):
        assert "missing" == told[subject]["state"]
        assert "eBPF dataplane" in told[subject]["remedy"]
    assert 1 == text.stdout.count("turn Calico's eBPF dataplane on")
    assert "ok" == told["links"]["state"]


def test_every_missing_thing_has_a_sentence(run, tmp_path):
    told = findings(
        run("check", "-o", "json", "--bpf.fs", tmp_path / "nowhere", "--calico.run-dir", tmp_path / "nowhere")
    )
    assert all(one["found"] for one in told.values())


def test_an_undecided_map_is_missing_and_says_what_would_help(run, recording):
    result = run("check", "-o", "json", "--bundle", recording("upgrade/3-v3.31.6"))
    told = findings(result)
    assert (1, "missing", "ok") == (result.exit_code, told["counter map"]["state"], told["interface state"]["state"])
    assert "send traffic" in told["counter map"]["found"]


def test_a_reader_that_is_not_there_is_a_finding(run, monkeypatch):
    def missing(name):
        raise ReaderMissing(f"{name} is nowhere: install it")

    monkeypatch.setattr("exporter.bpf.readers.open_reader", missing)
    result = run("check", "-o", "json", "--bpf.reader", "bpftool")
    reader = findings(result)["reader"]
    assert (1, "missing", "bpftool is nowhere: install it") == (result.exit_code, reader["state"], reader["found"])


def test_nodes_of_another_namespace_are_told_apart(run, changed):
    def elsewhere(members):
        return {"links.json": b'[{"ifindex": 1, "name": "lo2"}]'}

    result = run("check", "-o", "json", "--bundle", changed(HERE, elsewhere))
    assert (1, "missing") == (result.exit_code, findings(result)["namespace"]["state"])
    assert "hostNetwork: true" in findings(result)["namespace"]["remedy"]


def test_a_bundle_of_a_node_without_calico_can_be_read(run, tmp_path):
    file = tmp_path / "node.tar.xz"
    made = run("bundle", file, "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    assert 1 == made.exit_code
    result = run("check", "-o", "json", "--bundle", file)
    assert 1 == result.exit_code
    assert "missing" == findings(result)["pinned maps"]["state"]


@pytest.mark.parametrize(
    "part", ["links", "routes", "endpoint_status", "policy_files", "maps/cali_counters6", "maps/cali_iface4"]
)
def test_what_failed_on_the_node_is_said_again_from_its_bundle(run, changed, headed, part):
    result = run("check", "--bundle", changed(HERE, headed(errors={part: "the cable was cut"})))
    assert "" == result.stderr
    assert "the cable was cut" in result.stdout


PODS = [
    {"namespace": namespace, "pod": pod, "addresses": [], "owner_kind": "", "owner": ""}
    for namespace, pod in (("ns-a", "client"), ("ns-b", "server"), ("ns-c", "plain"), ("ns-c", "none"))
]


def cluster(pods=(), problem=None, **more):
    return {"pods": list(pods), "synced": 1.0, "problem": problem, "errors": {}, "node": "n1", **more}


@pytest.mark.parametrize(
    ("response", "state", "found", "remedy"),
    [
        (cluster(PODS), "ok", "it knows 4 pods with an interface of their own on node n1", ""),
        (cluster(), "note", "it knows no pod with an interface of its own on node n1", "--kubernetes.node"),
        (cluster(problem="it does not let this exporter list pods (403)"), "note", "(403)", "list and watch pods"),
    ],
)
def test_what_the_api_server_says_of_this_node_is_a_finding(run, changed, response, state, found, remedy):
    bundle = changed(HERE, lambda _: {"pods.json": json.dumps(response).encode()})
    told = findings(run("check", "-o", "json", "--bundle", bundle))["API server"]
    assert state == told["state"]
    assert found in told["found"]
    assert remedy in told["remedy"]


def test_interfaces_without_a_pod_s_name_are_counted(run, changed):
    def only_the_api_server(pods):
        def change(members):
            files = [name for name in members if "endpoint_status" in name or "endpoint-status" in name]
            return {**dict.fromkeys(files), "pods.json": json.dumps(cluster(pods)).encode()}

        return change

    told = findings(run("check", "-o", "json", "--bundle", changed(HERE, only_the_api_server(PODS))))["pod names"]
    found = "3 of 4 workload interfaces have a pod's name, not cali86e35d8c298"
    assert ("note", found) == (told["state"], told["found"])
    none = findings(run("check", "-o", "json", "--bundle", changed(HERE, only_the_api_server([]))))["pod names"]
    assert "0 of 4 workload interfaces have a pod's name" == none["found"]
    assert "--kubernetes" in none["remedy"]
