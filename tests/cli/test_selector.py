"""SELECTOR: by interface, pod or address; what fits several or nothing is said in a sentence."""

import json

import pytest

HERE = "v3.32.1/05-eot-egress-deny.after"
CLIENT = "calibf331a988cf"


@pytest.fixture
def select(run, recording):
    """The result of `counters -o json` with these selectors, and the interfaces in it."""

    def ask(*selectors, bundle=None):
        result = run("counters", "-o", "json", "--bundle", bundle or recording(HERE), *selectors)
        shown = json.loads(result.stdout)["endpoints"] if result.exit_code == 0 else []
        return result, sorted(one["interface"] for one in shown)

    return ask


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["--interface", "eth0"], ["eth0"]),
        (["--interface", "eth0", "--interface", "lo"], ["eth0", "lo"]),
        (["--interface", "eth0", "--interface", "eth0"], ["eth0"]),
        (["--pod", "client"], [CLIENT]),
        (["--pod", "ns-a/client"], [CLIENT]),
        (["--ip", "10.65.0.2"], [CLIENT]),
        (["--ip", "fd00:65::2"], [CLIENT]),
        (["--ip", "FD00:0065:0:0:0:0:0:2"], [CLIENT]),
        (["--ip", "10.65.0.2", "--pod", "client", "--interface", CLIENT, "--interface", "eth0"], [CLIENT]),
    ],
)
def test_an_endpoint_is_found_by_its_names_and_addresses(select, selectors, expected):
    result, interfaces = select(*selectors)
    assert (0, expected) == (result.exit_code, interfaces)


def test_without_a_selector_there_is_every_endpoint(select):
    assert 7 == len(select()[1])


@pytest.mark.parametrize("pod", ["a/ns-a/client", "", "ns-a/", "/client"])
def test_what_can_be_no_pod_is_wrong_usage(select, pod):
    result, _ = select("--pod", pod)
    assert 2 == result.exit_code
    assert "is not [NAMESPACE/]NAME" in result.stderr


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        (["--interface", "eth9"], "no interface eth9 on this node"),
        (["--interface", "eth0", "--interface", "eth9"], "no interface eth9 on this node"),
        (["--interface", ""], "no interface"),
        (["--pod", "nobody"], "no pod nobody on this node: is it on another node?"),
        (["--pod", "ns-b/client"], "no pod ns-b/client on this node"),
        (["--ip", "10.65.0.99"], "no endpoint on this node has the address 10.65.0.99"),
        (["--ip", "fd00:65::99"], "no endpoint on this node has the address fd00:65::99"),
        (["--ip", "10.65.0.2", "--pod", "server"], "no endpoint fits all of --interface, --pod and --ip at once"),
    ],
)
def test_what_is_not_there_is_a_sentence_and_exit_1(select, selectors, message):
    result, _ = select(*selectors)
    assert (1, "") == (result.exit_code, result.stdout)
    assert message in result.stderr
    assert 1 == len(result.stderr.splitlines())


@pytest.mark.parametrize(
    "address", ["client", "10.65.0", "10.65.0.2/32", "", "10.65.0.02", "fd00:65::2::", "\uff11.1.1.1"]
)
def test_what_is_no_address_is_wrong_usage(select, address):
    result, _ = select("--ip", address)
    assert 2 == result.exit_code
    assert f"--ip {address} is not an IP address" in result.stderr


def test_a_name_that_fits_several_pods_is_wrong_usage_with_the_list(select, changed, named):
    bundle = changed(HERE, named("k8s ns-b%2Fweb eth0", "k8s ns-a%2Fweb eth0", "k8s ns-c%2Fother eth0"))
    result, _ = select("--pod", "web", bundle=bundle)
    assert 2 == result.exit_code
    assert "--pod web fits several: ns-a/web (" in result.stderr
    assert result.stderr.index("ns-a/web (") < result.stderr.index("ns-b/web (")
    assert "ns-c/other" not in result.stderr
    assert 1 == len(select("--pod", "ns-b/web", bundle=bundle)[1])


def test_where_no_pod_is_known_by_name_the_sentence_says_what_helps(select, recording):
    result, _ = select("--pod", "client", bundle=recording("v3.29.7/05-eot-egress-deny.after"))
    assert 1 == result.exit_code
    assert "no pod names are known here; use --ip or --interface" in result.stderr


def test_an_index_that_nobody_knows_can_be_selected_by_its_number(select, changed, headed):
    def unknown(members):
        keys = bytearray(members["maps/cali_counters6/keys"])
        keys[:4] = (77).to_bytes(4, "little")
        head = headed(errors={"links": "no netlink"})(members)
        return {"maps/cali_counters6/keys": bytes(keys), **head}

    assert ["ifindex:77"] == select("--interface", "ifindex:77", bundle=changed(HERE, unknown))[1]
