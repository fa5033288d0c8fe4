"""What each value does to the objects."""

import re
import subprocess

import click
import pytest
import yaml

from exporter.cli.main import program
from exporter.cli.serve import command as serve
from exporter.kubectl.targets import DEFAULT_SELECTOR
from exporter.web.access.config_file import parse_web_config
from exporter.web.transport import listener
from tests.chart.helm import CASES, CHART, HELM, container, helm, kinds, one, render
from tests.kernel.conftest import give_up

METRICS = "test-calico-bpf-exporter"
DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode:
        give_up("helm is not here: `make setup` brings it")


def args(values=None):
    return container(render(values))["args"]


def test_of_itself_it_is_one_daemonset_with_the_right_to_see_pods():
    objects = render()
    expected = ["ClusterRole", "ClusterRoleBinding", "DaemonSet", "Pod", "ServiceAccount"]
    assert expected == kinds(objects)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    assert rules == one(objects, "ClusterRole")["rules"]


def test_the_pod_is_in_the_nodes_network_and_sees_the_two_folders_read_only():
    pod = one(render(), "DaemonSet")["spec"]["template"]["spec"]
    assert (True, None) == (pod["hostNetwork"], pod.get("hostPID"))
    paths = {volume["name"]: volume["hostPath"] for volume in pod["volumes"]}
    assert {"bpffs": {"path": "/sys/fs/bpf"}, "calico": {"path": "/var/run/calico"}} == paths
    mounts = pod["containers"][0]["volumeMounts"]
    assert [(True, "HostToContainer")] * 2 == [(mount["readOnly"], mount["mountPropagation"]) for mount in mounts]


def test_the_nodes_own_paths_may_be_elsewhere_and_the_program_reads_them_there():
    objects = render({"bpffs": {"hostPath": "/run/bpf"}, "calico": {"runDir": "/run/calico"}})
    volumes = one(objects, "DaemonSet")["spec"]["template"]["spec"]["volumes"]
    assert [{"path": "/run/bpf"}, {"path": "/run/calico"}] == [volume["hostPath"] for volume in volumes]
    assert ["/sys/fs/bpf", "/var/run/calico"] == [one["mountPath"] for one in container(objects)["volumeMounts"]]


def environment(objects, pod="DaemonSet"):
    return {each["name"]: each.get("value") for each in container(objects, pod)["env"]}


@pytest.mark.parametrize("case", CASES)
def test_the_program_takes_every_flag_and_variable_that_the_chart_passes(case, monkeypatch):
    objects = render(case)
    words = container(objects)["args"]
    assert "serve" == words[0]
    for name, value in environment(objects).items():
        if name.startswith("CALICO_BPF_EXPORTER_"):
            monkeypatch.setenv(name, "/dev/null" if value.startswith("/etc/") else value)
    given = [word.replace("$(HOST_IP)", "192.0.2.1") for word in words[1:]]
    given = [f"{word.partition('=')[0]}=/dev/null" if word.startswith("--web.config.file") else word for word in given]
    # It raises what the program would say.
    serve.make_context("serve", given, parent=click.Context(program, **program.context_settings))


def test_every_flag_that_a_value_stands_for_is_passed():
    flags = {name: option.envvar for option in serve.params for name in (*option.opts, *option.secondary_opts)}
    passed, variables = set(), set()
    for case in CASES:
        objects = render(case)
        passed |= {word.partition("=")[0] for word in container(objects)["args"]}
        variables |= environment(objects).keys()
    # Left to extraArgs, or not for a cluster. `collector.disable-defaults` is said by each collector's own flag.
    left = {
        *("--kubernetes.node", "--kubernetes.kubeconfig", "--bpf.fs", "--calico.run-dir"),
        *("--collector.disable-defaults", "--web.timeout-offset", "--web.disable-exporter-metrics"),
        *("--security.drop-capabilities", "--no-security.drop-capabilities"),
        *("--no-collector.counters", "--no-collector.endpoints", "--no-collector.maps"),
    }
    assert {name for name, variable in flags.items() if variable not in variables} - left <= passed


def test_what_is_true_of_the_node_reaches_every_command_and_not_serve_alone():
    values = {
        "calico": {"interfacePrefixes": ["cali", "eni"], "layoutFile": "a: 1"},
        "kubernetes": {"enabled": False},
        "reader": "bpftool",
    }
    expected = {
        "BPF_READER": "bpftool",
        "CALICO_INTERFACE_PREFIX": "cali eni",
        "CALICO_LAYOUT_FILE": "/etc/calico-bpf-exporter/layout/layout.yaml",
        "KUBERNETES": "false",
    }
    for pod in ("DaemonSet", "Pod"):
        found = environment(render(values), pod)
        assert {f"CALICO_BPF_EXPORTER_{name}": value for name, value in expected.items()}.items() <= found.items()


def test_what_is_false_is_off():
    objects = render(
        {
            "kubernetes": {"enabled": False},
            "collectors": dict.fromkeys(("counters", "endpoints", "rules"), False),
            "serviceAccount": {"create": False},
            "podMonitor": {"enabled": True, "honorLabels": False},
        }
    )
    assert ["DaemonSet", "Pod", "PodMonitor"] == kinds(objects)
    words = container(objects)["args"]
    expected = {f"--no-collector.{name}" for name in ("counters", "endpoints", "rules", "nic", "conntrack")}
    assert expected == {word for word in words if word.startswith("--no-collector")}
    assert "false" == environment(objects)["CALICO_BPF_EXPORTER_KUBERNETES"]
    pod = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert (False, "default") == (pod["automountServiceAccountToken"], pod["serviceAccountName"])
    assert one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["honorLabels"] is False


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        ({}, "localhost/calico-bpf-exporter:0.2.0"),
        ({"image": {"tag": "dev"}}, "localhost/calico-bpf-exporter:dev"),
        ({"image": {"registry": "", "repository": "cbe"}}, "cbe:0.2.0"),
        ({"global": {"imageRegistry": "mirror"}, "image": {"repository": "cbe"}}, "mirror/cbe:0.2.0"),
        ({"image": {"repository": "cbe", "digest": DIGEST, "tag": "1"}}, f"localhost/cbe@{DIGEST}"),
    ],
)
def test_the_image_is_named_once_for_all_pods(image, shown):
    objects = render(image)
    assert [shown, shown] == [container(objects, kind)["image"] for kind in ("DaemonSet", "Pod")]


def test_pull_secrets_are_strings_or_objects():
    pod = one(render("operator-values"), "DaemonSet")["spec"]["template"]["spec"]
    assert [{"name": "of-all"}, {"name": "own"}] == pod["imagePullSecrets"]


PROFILES = {
    "privileged": {"privileged": True},
    "sysadmin": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN", "DAC_READ_SEARCH", "SETUID", "SETGID"]}},
    "capabilities": {"capabilities": {"drop": ["ALL"], "add": ["BPF", "DAC_READ_SEARCH", "SETUID", "SETGID"]}},
}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_what_the_container_may_do(profile):
    objects = render({"securityProfile": profile})
    root = {"runAsUser": 0, "runAsGroup": 10042, "runAsNonRoot": False, "readOnlyRootFilesystem": True}
    bounded = {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "seccompProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"type": "spc_t"},
    }
    expected = {**root, **({} if profile == "privileged" else bounded), **PROFILES[profile]}
    assert [expected] * 2 == [container(objects, kind)["securityContext"] for kind in ("DaemonSet", "Pod")]


@pytest.mark.parametrize("profile", ["sysadmin", "capabilities"])
def test_packets_add_one_capability_to_the_lesser_profiles(profile):
    context = container(render({"securityProfile": profile, "packets": {"enabled": True}}))["securityContext"]
    without = PROFILES[profile]["capabilities"]
    assert {**without, "add": [*without["add"], "NET_RAW"]} == context["capabilities"]


def test_packets_change_nothing_of_a_privileged_container():
    every = [container(render({"packets": {"enabled": enabled}}))["securityContext"] for enabled in (False, True)]
    assert every[0] == every[1]


def test_fields_of_ones_own_go_before_those_of_the_profile():
    own = {"seLinuxOptions": {"type": "own_t"}, "capabilities": {"add": ["BPF", "SYS_ADMIN"]}}
    context = container(render({"securityProfile": "capabilities", "containerSecurityContext": own}))["securityContext"]
    assert ({"type": "own_t"}, ["BPF", "SYS_ADMIN"]) == (context["seLinuxOptions"], context["capabilities"]["add"])
    assert ["ALL"] == context["capabilities"]["drop"]


@pytest.mark.parametrize(
    ("values", "handler"),
    [
        ({}, ("httpGet", "HTTP")),
        ({"webConfig": {"content": {"rate_limit": {"interval": "1s"}}}}, ("httpGet", "HTTP")),
        ({"webConfig": {"content": {"tls_server_config": {"cert_file": "a"}}}}, ("httpGet", "HTTPS")),
        ({"webConfig": {"content": {"tls_server_config": {"client_allowed_sans": ["a"]}}}}, ("tcpSocket", None)),
        ("closed-values", ("tcpSocket", None)),
        ("authorization-values", ("httpGet", "HTTPS")),
        ({"probes": {"scheme": "none"}}, None),
    ],
)
def test_the_kubelet_asks_in_the_way_that_the_web_configuration_lets_it(values, handler):
    found = container(render(values))
    probes = [found.get("livenessProbe"), found.get("readinessProbe")]
    if handler is None:
        assert [None, None] == probes
        return
    kind, scheme = handler
    assert [scheme] * 2 == [probe[kind].get("scheme") for probe in probes]
    assert ["metrics"] * 2 == [probe[kind]["port"] for probe in probes]
    if kind == "httpGet":
        assert ["/healthz", "/readyz"] == [probe[kind]["path"] for probe in probes]


def test_an_address_of_ones_own_is_asked_there():
    found = container(render("files-only-values"))
    assert "--web.listen-address=127.0.0.1:9999" in found["args"]
    assert "127.0.0.1" == found["livenessProbe"]["httpGet"]["host"]
    assert {"periodSeconds": 30, "timeoutSeconds": 5, "failureThreshold": 3}.items() <= found["livenessProbe"].items()
    assert "host" not in container(render("closed-values"))["livenessProbe"]["tcpSocket"]


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("", None),
        ("127.0.0.1", "127.0.0.1"),
        ("$(HOST_IP)", None),
        ("[$(HOST_IP)]", None),
        ("::", None),
        ("[::]", None),
        ("0.0.0.0", None),
        ("fd00::5", "fd00::5"),
        ("[fd00::5]", "fd00::5"),
    ],
)
@pytest.mark.parametrize("tcp", [False, True])
def test_probes_ask_where_it_listens_and_it_understands_the_address(host, asked, tcp):
    config = {"content": {"tls_server_config": {"client_auth_type": "RequireAndVerifyClientCert"}}} if tcp else {}
    found = container(render({"web": {"host": host}, "webConfig": config}))
    (listen,) = (word for word in found["args"] if word.startswith("--web.listen-address="))
    address = listen.partition("=")[2].replace("$(HOST_IP)", "fd00::5")
    assert listener._ADDRESS.fullmatch(listener._bracketed(address))
    for probe in ("livenessProbe", "readinessProbe"):
        assert asked == found[probe]["tcpSocket" if tcp else "httpGet"].get("host")


def secrets(objects):
    """Where which Secret is mounted in the exporter's container, for its owner only."""
    pod = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    names = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    assert {0o400} == {secret["defaultMode"] for secret in names.values()}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    return {mounts[name]: secret["secretName"] for name, secret in names.items()}


def test_the_web_configuration_reaches_the_program_as_it_was_written(tmp_path):
    values = yaml.safe_load((CHART / "ci/closed-values.yaml").read_text())
    objects = render("closed-values")
    secret = one(objects, "Secret")
    written = secret["stringData"]["web-config.yml"]
    assert values["webConfig"]["content"] == yaml.safe_load(written)
    assert secrets(objects) == {
        "/etc/calico-bpf-exporter/web": secret["metadata"]["name"],
        "/etc/calico-bpf-exporter/certificates/exporter-tls": "exporter-tls",
    }
    tls = values["webConfig"]["content"].pop("tls_server_config")
    folders = {tls[name].rpartition("/")[0] for name in ("cert_file", "key_file", "client_ca_file")}
    assert {"/etc/calico-bpf-exporter/certificates/exporter-tls"} == folders
    # The exporter itself takes it, certificates apart.
    assert 20 == parse_web_config(yaml.safe_dump(values["webConfig"]["content"]), tmp_path).rate_limit.burst


def test_a_secret_of_ones_own_is_mounted_and_none_made():
    objects = render("authorization-values")
    assert "Secret" not in kinds(objects)
    assert {"/etc/calico-bpf-exporter/web": "exporter-web"} == secrets(objects)
    assert "--web.config.file=/etc/calico-bpf-exporter/web/web-config.yml" in container(objects)["args"]


def test_authorization_may_create_reviews_and_makes_a_role_for_those_who_scrape():
    objects = render("authorization-values")
    own = {(rule["resources"][0], *rule["verbs"]) for rule in one(objects, "ClusterRole", METRICS)["rules"]}
    assert {("pods", "list", "watch"), ("tokenreviews", "create"), ("subjectaccessreviews", "create")} == own
    reader = one(objects, "ClusterRole", f"{METRICS}-reader")
    assert [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}] == reader["rules"]


def test_without_the_api_server_there_is_no_role_and_authorization_alone_sees_no_pods():
    assert not {"ClusterRole", "ClusterRoleBinding"} & set(kinds(render({"kubernetes": {"enabled": False}})))
    objects = render({"kubernetes": {"enabled": False, "authorization": True}})
    resources = [rule["resources"] for rule in one(objects, "ClusterRole", METRICS)["rules"]]
    assert [["tokenreviews"], ["subjectaccessreviews"]] == resources
    assert one(objects, "DaemonSet")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_where_kube_proxy_is_replaced_the_api_server_is_found():
    by_key = {each["name"]: each["valueFrom"] for each in container(render())["env"] if "valueFrom" in each}
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        key = {"name": "kubernetes-services-endpoint", "key": name, "optional": True}
        assert {"configMapKeyRef": key} == by_key[name]
    names = environment(render("authorization-values"))
    assert ("192.0.2.1", "6443") == (names["KUBERNETES_SERVICE_HOST"], names["KUBERNETES_SERVICE_PORT"])
    assert "KUBERNETES_SERVICE_HOST" not in environment(render("files-only-values"))


@pytest.mark.parametrize(
    ("case", "kind", "endpoints"),
    [("operator-values", "PodMonitor", "podMetricsEndpoints"), ("closed-values", "ServiceMonitor", "endpoints")],
)
def test_a_monitor_keeps_the_labels_of_the_counted_pod_and_adds_the_node(case, kind, endpoints):
    objects = render(case)
    monitor = one(objects, kind)
    for endpoint in monitor["spec"][endpoints]:
        assert ("metrics", "/metrics", True) == (endpoint["port"], endpoint["path"], endpoint["honorLabels"])
        node = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
        assert node == endpoint["relabelings"][-1]
    pods = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pods.items()
    assert {"matchNames": ["monitoring"]} == monitor["spec"]["namespaceSelector"]
    assert "release" in monitor["metadata"]["labels"]


def test_the_scheme_of_a_scrape_follows_the_web_configuration():
    assert "https" == one(render("closed-values"), "ServiceMonitor")["spec"]["endpoints"][0]["scheme"]
    plain = one(render({"podMonitor": {"enabled": True}}), "PodMonitor")
    assert "http" == plain["spec"]["podMetricsEndpoints"][0]["scheme"]


def test_annotations_for_prometheus_stand_only_where_no_monitor_does():
    def annotations(values=None):
        found = one(render(values), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        return {name: value for name, value in found.items() if name.startswith("prometheus.io/")}

    names = ("scrape", "port", "path", "scheme")
    said = dict(zip((f"prometheus.io/{name}" for name in names), ("true", "10042", "/metrics", "http"), strict=True))
    assert said == annotations()
    assert {} == annotations("operator-values") == annotations("closed-values")


def test_the_service_is_headless_because_each_node_has_numbers_of_its_own():
    for case in ("closed-values", "files-only-values"):
        objects = render(case)
        service = one(objects, "Service")
        assert "None" == service["spec"]["clusterIP"]
        pods = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= pods.items()
    assert "Service" not in kinds(render("operator-values"))


def test_the_policy_closes_the_port_to_all_but_those_named_and_passes_everything_else_on():
    policy = one(render("closed-values"), "GlobalNetworkPolicy")["spec"]
    allowed, nets, denied, rest = policy["ingress"]
    assert ["Allow", "Allow", "Deny", "Pass"] == [rule["action"] for rule in policy["ingress"]]
    assert [[10042]] * 3 == [rule["destination"]["ports"] for rule in (allowed, nets, denied)]
    assert ["192.0.2.0/24"] == nets["source"]["nets"]
    assert {"action": "Pass"} == rest


def test_labels_and_names_may_be_ones_own():
    objects = render("files-only-values")
    labels = one(objects, "DaemonSet")["metadata"]["labels"]
    assert ("test-net", "cbe") == (labels["team"], one(objects, "DaemonSet")["metadata"]["name"])
    pod = one(objects, "DaemonSet")["spec"]["template"]
    assert ("node", "9999") == (pod["metadata"]["labels"]["tier"], pod["metadata"]["annotations"]["note"])
    assert {"test-extra", "test-text", "cbe-layout"} == {
        each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"
    }
    namespaces = {each["metadata"].get("namespace") for each in objects if each["kind"] != "ConfigMap"}
    assert {"monitoring"} == namespaces


def test_the_chart_is_no_part_of_what_selects_pods():
    selector = one(render(), "DaemonSet")["spec"]["selector"]["matchLabels"]
    assert {"app.kubernetes.io/name": "calico-bpf-exporter", "app.kubernetes.io/instance": "test"} == selector


def test_the_kubectl_plugin_finds_the_pods_and_not_the_one_of_the_test():
    objects = render()
    name, _, value = DEFAULT_SELECTOR.partition("=")
    assert value == one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"][name]
    assert value != one(objects, "Pod")["metadata"]["labels"][name]


def test_the_test_of_a_release_is_its_own_check_with_the_same_rights():
    objects = render("closed-values")
    daemon, check = container(objects), container(objects, "Pod")
    assert ["check"] == check["args"]
    assert ["image", "securityContext", "env"] == [
        key for key in ("image", "securityContext", "env") if daemon[key] == check[key]
    ]
    mounts = {mount["name"]: mount for mount in daemon["volumeMounts"]}
    assert [mounts["bpffs"], mounts["calico"]] == check["volumeMounts"]
    annotations = one(objects, "Pod")["metadata"]["annotations"]
    assert "test" == annotations["helm.sh/hook"]
    assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]


def test_a_new_layout_file_restarts_the_pods_and_is_where_the_flag_says():
    first, second = (
        one(render({"calico": {"layoutFile": text}}), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        for text in ("a: 1", "a: 2")
    )
    assert first["checksum/layout"] != second["checksum/layout"]
    found = container(render("files-only-values"))
    assert "/etc/calico-bpf-exporter/layout" in [mount["mountPath"] for mount in found["volumeMounts"]]


def test_each_dashboard_is_a_config_map_that_grafanas_sidecar_finds_with_the_very_file():
    maps = [each for each in render("operator-values") if each["kind"] == "ConfigMap"]
    files = sorted((CHART / "files/dashboards").glob("*.json"))
    assert 4 == len(files)
    for each, file in zip(maps, files, strict=True):
        assert {f"calico-bpf-exporter-{file.name}": file.read_text()} == each["data"]
        assert "1" == each["metadata"]["labels"]["grafana_dashboard"]
        assert "Calico" == each["metadata"]["annotations"]["k8s-sidecar-target-directory"]
    assert "ConfigMap" not in kinds(render())


@pytest.mark.parametrize(
    ("values", "said", "unsaid"),
    [
        ({}, ["counters", "curl http://127.0.0.1:10042/metrics", "honor_labels: true", "pod-security"], []),
        ({"podMonitor": {"enabled": True}}, ["has no additional labels"], ["honor_labels"]),
        (
            {"podMonitor": {"enabled": True, "additionalLabels": {"release": "a"}}},
            [],
            ["has no additional labels", "honor_labels"],
        ),
        ({"kubernetes": {"authorization": True}}, ["create clusterrolebinding"], ["curl"]),
        ({"webConfig": {"content": {"tls_server_config": {"cert_file": "a"}}}}, [], ["curl"]),
        ({"image": {"tag": "dev"}}, ["No image is published yet: localhost/calico-bpf-exporter:dev runs only"], []),
        ({"image": {"registry": "registry.example.org"}}, [], ["No image is published yet"]),
        ({"prometheusRule": {"enabled": True}}, ["links to runbooks work after the first release"], []),
        ({"prometheusRule": {"enabled": True, "runbookUrl": "https://wiki/"}}, [], ["after the first release"]),
        ({}, [], ["after the first release"]),
    ],
)
def test_the_notes_say_what_fits_the_values(values, said, unsaid, tmp_path):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    words = ["install", "test", CHART, "--dry-run=client", "--namespace", "monitoring", "-f", tmp_path / "values.yaml"]
    done = subprocess.run([HELM, *map(str, words)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert [] == [words for words in said if words not in notes]
    assert [] == [words for words in unsaid if words in notes]


def pods_of(objects):
    """The DaemonSet's and the test's pod, as their metadata and their spec."""
    daemon, check = one(objects, "DaemonSet")["spec"]["template"], one(objects, "Pod")
    return [(each["metadata"], each["spec"]) for each in (daemon, check)]


def test_volumes_of_secrets_have_names_that_kubernetes_takes():
    names = ["exporter.tls", "exporter-tls", "a" * 200 + ".b"]
    content = {"tls_server_config": {"cert_file": "a"}}
    objects = render({"webConfig": {"content": content, "certificateSecrets": names}})
    folder = "/etc/calico-bpf-exporter/certificates"
    assert {f"{folder}/{name}": name for name in names}.items() <= secrets(objects).items()
    volumes = [volume["name"] for volume in pods_of(objects)[0][1]["volumes"]]
    assert len(volumes) == len(set(volumes))
    assert all(re.fullmatch(r"[a-z0-9-]{1,63}", name) for name in volumes)


def test_the_pod_of_the_test_is_as_the_others_to_quotas_policies_and_the_scheduler():
    values = {
        "podLabels": {"team": "net"},
        "resources": {"limits": {"memory": "160Mi"}},
        "priorityClassName": "system-node-critical",
    }
    daemon, check = pods_of(render(values))
    for metadata, spec in (daemon, check):
        assert "net" == metadata["labels"]["team"]
        assert "system-node-critical" == spec["priorityClassName"]
        assert {"limits": {"memory": "160Mi"}} == spec["containers"][0]["resources"]
    assert "calico-bpf-exporter-check" == check[0]["labels"]["app.kubernetes.io/name"]


def test_no_pod_lands_on_a_virtual_kubelet():
    terms = [
        {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]},
        {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]},
    ]
    for _, spec in pods_of(render()):
        (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert {"matchExpressions": terms} == term
    own = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    assert [own, own] == [spec["affinity"] for _, spec in pods_of(render({"affinity": own}))]


class Strict(yaml.SafeLoader):
    """A loader that refuses a key that stands twice, as the API server does."""

    def construct_mapping(self, node, **how):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, **how)


def test_no_label_or_annotation_stands_twice():
    annotations = {"prometheus.io/scrape": "false", "kubectl.kubernetes.io/default-container": "beside"}
    labels = {"app.kubernetes.io/name": "impostor", "app.kubernetes.io/component": "agent"}
    enabled = {"enabled": True, "additionalLabels": labels}
    boards = {"enabled": True, "labels": labels}
    objects = {"podMonitor": enabled, "prometheusRule": enabled, "dashboards": boards, "commonLabels": labels}
    values = yaml.safe_dump({"podAnnotations": annotations, "podLabels": labels, **objects})
    command = [HELM, "template", "test", str(CHART), "-f", "-"]
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=True)
    found = [each for each in yaml.load_all(done.stdout, Strict) if each]
    metadata = one(found, "DaemonSet")["spec"]["template"]["metadata"]
    assert annotations.items() <= metadata["annotations"].items()
    assert ("calico-bpf-exporter", "agent") == tuple(metadata["labels"][name] for name in labels)


def test_the_annotations_that_prometheus_reads_can_be_left_out():
    found = pods_of(render({"scrapeAnnotations": False}))[0][0]["annotations"]
    assert [] == [name for name in found if name.startswith("prometheus.io/")]


PAGES = ("README.md", "chart/README.md", "docs/quick-start.md", "docs/install.md")


@pytest.mark.parametrize("page", PAGES)
def test_each_page_labels_the_namespace_before_it_installs(page):
    text = (CHART.parent / page).read_text()
    label = "kubectl label namespace calico-bpf-exporter pod-security.kubernetes.io/enforce=privileged"
    assert -1 < text.find(label) < text.index("helm install calico-bpf-exporter")
