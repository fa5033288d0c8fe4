"""Redaction: what replaces addresses, names, selectors, rule ids and code, and that nothing of before is left."""

import ipaddress
import itertools
import json
import random
import re
import struct

import pytest

from exporter.calico.conntrack import decode_conntrack
from exporter.calico.conntrack_rows import BODY
from exporter.calico.names import workload_interface
from exporter.calico.nat import decode_affinity, decode_backends, decode_frontends
from exporter.calico.pins import (
    CONNTRACK,
    COUNTERS,
    IP_SETS,
    NAT_AFFINITY,
    NAT_BACKENDS,
    NAT_FRONTENDS,
    ROUTES,
)
from exporter.calico.policy_comments import parse_policy_file
from exporter.calico.policy_debug import parse_file_name
from exporter.calico.policy_file import PolicyFile
from exporter.calico.program_tag import program_tags
from exporter.calico.routes import decode_routes
from exporter.calico.rule_text import parse_rule_text
from exporter.calico.rules import rule_ids
from exporter.diagnosis.policy_run import load_file
from exporter.snapshot.bundle import Bundle
from exporter.snapshot.redacted_addresses import Addresses
from exporter.snapshot.redacted_maps import MapRows
from exporter.snapshot.redacted_names import Names
from exporter.snapshot.redacted_policy import PolicyFiles
from exporter.snapshot.redacted_rules import RuleIds
from exporter.snapshot.redaction import Redaction
from tests.policy_files import policy, tier, written
from tests.recorded import NAMES, Recording, law_of_recordings
from tests.redacting import KEY
from tests.service_tables import OPENER, affinity, backend, columns, flow, forward, frontend, route
from tests.traces.experiments import experiments

KEPT = {
    "",
    "default",
    "kns",
    "kube-admin",
    "knp",
    "k8s",
    "projectcalico-default-allow",
    "0.0.0.0/0",
    "169.254.169.254/32",
}


def common(one, other):
    """How many leading bits two addresses share."""
    bits = ipaddress.ip_address(one).max_prefixlen
    return bits - (int(ipaddress.ip_address(one)) ^ int(ipaddress.ip_address(other))).bit_length()


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.0/24", "0.0.0.0/0", "fd00::/8", "2001:db8::/64", "::/0"])
def test_two_addresses_share_as_many_leading_bits_as_before(network):
    noise, addresses = random.Random(1), Addresses(KEY)
    net = ipaddress.ip_network(network)
    every = [str(net[noise.randrange(net.num_addresses)]) for _ in range(60)]
    for one, other in itertools.combinations(every, 2):
        assert common(one, other) == common(addresses.one(one), addresses.one(other))


def test_a_private_address_stays_private_and_becomes_another():
    addresses = Addresses(KEY)
    for one, block in {
        "10.65.0.3": "10.0.0.0/8",
        "172.20.1.1": "172.16.0.0/12",
        "192.168.7.8": "192.168.0.0/16",
        "100.64.3.4": "100.64.0.0/10",
        "fd00:65::3": "fc00::/7",
    }.items():
        replaced = addresses.one(one)
        assert replaced != one
        assert ipaddress.ip_address(replaced) in ipaddress.ip_network(block)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::ecee:eeff:feee:eeee",
        "ff02::2",
    ],
)
def test_an_address_with_a_meaning_of_its_own_stays(address):
    assert address == Addresses(KEY).one(address)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("fe80::858:aff:fe41:3", "fe80::/64"),  # of a MAC address with 10.65.0.3 in it, as CNI plugins make it
        ("fe80::42:acff:fe11:2", "fe80::/64"),  # of one with 172.17.0.2, as Docker makes it
        ("ff02::1:ff41:3", "ff02::1:ff00:0/104"),
    ],
)
def test_an_address_that_holds_another_one_is_replaced_in_its_network(address, network):
    replaced = ipaddress.ip_address(Addresses(KEY).one(address))
    assert replaced in ipaddress.ip_network(network)
    assert replaced.packed[-3:] != ipaddress.ip_address(address).packed[-3:]


def test_another_key_gives_other_addresses_and_names():
    assert Addresses(KEY).one("10.65.0.3") != Addresses(b"another").one("10.65.0.3")
    assert Names(KEY).name("server") != Names(b"another").name("server")


@pytest.mark.parametrize(
    ("network", "bits"), [("10.0.0.0/8", 8), ("10.65.0.3/32", 32), ("0.0.0.0/0", 0), ("fd00:65::/64", 64), ("::/0", 0)]
)
def test_a_network_stays_a_network_of_what_is_in_it(network, bits):
    addresses = Addresses(KEY)
    replaced = ipaddress.ip_network(addresses.one(network))
    assert bits == replaced.prefixlen
    inside = str(ipaddress.ip_network(network)[-1])
    assert ipaddress.ip_address(addresses.one(inside)) in replaced


@pytest.mark.parametrize(
    "text",
    [
        "to {}",
        "{}:8080/tcp",
        "[{}]:8080/tcp",
        "host:{}, {}",
        "https://{}:6443: refused",
        "not in {{{},10.0.0.0/8}}, skip",
        "{}.",
        "addr={}",
    ],
)
def test_an_address_in_a_sentence_is_replaced(text):
    names = Names(KEY)
    for address in ("10.65.0.3", "10.65.0.0/16"):
        found = names.in_text(text.format(*[address] * 2))
        assert address not in found
        assert names.addresses.one(address) in found


@pytest.mark.parametrize("text", ["at 12:30:45", "version 3.32.1", "v1.2.3.4.5", "ee:ee:ee:ee:ee:ee", "1::2::3"])
def test_what_is_no_address_stays(text):
    assert text == Addresses(KEY).in_text(text)


def test_an_interface_follows_its_pod_and_others_keep_their_prefix():
    names = Names(KEY, ["gke"])
    names.know_pods([("ns-b", "server")])
    for prefix in ("cali", "gke", "eni"):
        replaced = names.interface(workload_interface(prefix, "ns-b", "server"))
        assert workload_interface(prefix, names.name("ns-b"), names.name("server")) == replaced
    assert names.interface("gkeabcdef01234").startswith("gke")
    assert "customer-uplink" != names.interface("customer-uplink")
    assert max(len(names.interface(one)) for one in ("customer-uplink", "cali0123456789a", "gke00000000000")) < 16
    for kept in ("lo", "eth0", "ens5", "enp0s31f6", "bond0.12", "vxlan.calico", "bpfin.cali", "wireguard.cali"):
        assert kept == names.interface(kept)
    assert "enx78e7d1ea46da" != names.interface("enx78e7d1ea46da")


def test_selectors_keep_their_operators():
    names = Names(KEY)
    found = names.selector("app == 'web' && has(team) && !(tier in {\"a\", 'b'}) && all()")
    assert [word for word in ("app", "web", "team", "tier", "'a'", '"a"', "'b'") if word in found] == []
    assert "name-X == 'name-X' && has(name-X) && !(name-X in {\"name-X\", 'name-X'}) && all()" == re.sub(
        "name-[0-9a-f]{10}", "name-X", found
    )
    assert names.selector("projectcalico.org/namespace == 'ns-b'") == (
        f"projectcalico.org/namespace == '{names.name('ns-b')}'"
    )


def test_a_name_keeps_what_kubernetes_and_calico_mean_by_it():
    names = Names(KEY)
    gate = names.name("gate")
    assert f"{names.name('security')}.{gate}" == names.name("security.gate")
    assert f"knp.default.{gate}" == names.name("knp.default.gate")
    assert f"{names.name('ns-b')}/default.{gate}" == names.name("ns-b/default.gate")
    assert f"kns.{names.name('ns-b')}" == names.name("kns.ns-b")


def files(*contents, namespaces=()):
    """Redacted policy files of an interface, the second of IPv6, and the renaming."""
    names = Names(KEY)
    redaction = PolicyFiles(names, RuleIds(names, KEY, namespaces))
    about = [parse_file_name(f"cali1_ingress_v{family}.json") for family in (4, 6)]
    for one, content in zip(about, contents, strict=False):
        redaction.learn(one, content)
    redacted = [redaction.redact(content, one.family) for one, content in zip(about, contents, strict=False)]
    return names, redaction, redacted


def test_ids_that_follow_from_names_follow_from_the_new_names():
    gate, profile = (
        next(iter(rule_ids(*one)))
        for one in (
            ("deny", "egress", 0, "policy", "GlobalNetworkPolicy", "security.gate"),
            ("allow", "ingress", 0, "profile", "", "kns.ns-b"),
        )
    )
    content = written(
        *tier("security", policy("GlobalNetworkPolicy security.gate", ("deny", gate))),
        'Start of rule action:"allow" rule_id:"x"',
        f"Rule MatchID: {profile}",
        profile,
        'Start of rule action:"deny" rule_id:"x"',
        "Rule MatchID: 12345",
    )
    names, _, (redacted,) = files(content, namespaces=["ns-a", "ns-b"])
    tiers = parse_policy_file(parse_file_name("cali1_ingress_v4.json"), redacted).tiers
    renamed = ("deny", "egress", 0, "policy", "GlobalNetworkPolicy", names.name("security.gate"))
    assert next(iter(rule_ids(*renamed))) == tiers[0].policies[0].rules[0].id
    new = next(iter(rule_ids("allow", "ingress", 0, "profile", "", names.name("kns.ns-b"))))
    low, high = new.to_bytes(8, "little")[:4], new.to_bytes(8, "little")[4:]
    codes = [one.code for one in PolicyFile(redacted).instructions()]
    assert (b"\x18\x02\0\0" + low, bytes(4) + high) in list(itertools.pairwise(codes))
    assert b"12345" not in redacted
    assert str(profile).encode() not in redacted


def cidr_code(network, label):
    """What Felix emits to compare an address with a network (`writeCIDRSMatch`)."""
    net = ipaddress.ip_network(network)
    address, mask = net.network_address.packed, net.netmask.packed
    parts = [part for part in range(0, len(address), 4) if part == 0 or any(mask[part : part + 4])]
    for part in parts:
        offset = (8 + part).to_bytes(2, "little")
        yield b"\x61\x91" + offset + bytes(4), "R1 = *(u32 *)(R9 + 8) /* state->ip_src */"
        yield b"\xb4\x02\0\0" + mask[part : part + 4], ""
        yield b"\x5c\x12" + bytes(6), ""
        last = part == parts[-1]
        yield (b"\x16\x02" if last else b"\x56\x02") + label + address[part : part + 4], ""


@pytest.mark.parametrize(
    "network", ["10.0.0.0/8", "10.65.0.3/32", "192.0.2.128/25", "fd00:65::3/128", "2001:db8:7::/48", "2001:db8::/33"]
)
def test_code_compares_with_the_new_network(network):
    net = ipaddress.ip_network(network)
    instructions = [{"inst": list(code), "annotation": note} for code, note in cidr_code(network, b"\x01\0")]
    content = json.dumps({"hook": "tc", "policyInfo": instructions}).encode()
    names, redaction, redacted = files(*([content] if net.version == 4 else [b"{", content]))
    new = ipaddress.ip_network(names.addresses.one(network))
    assert [code for code, _ in cidr_code(str(new), b"\x01\0")] == [
        one.code for one in PolicyFile(redacted[-1]).instructions()
    ]
    before, after = ([one.code for one in PolicyFile(one).instructions()] for one in (content, redacted[-1]))
    assert {redaction.tags[one] for one in program_tags(before)} <= program_tags(after)


@pytest.mark.parametrize("name", ["v3.33/35-huge-rule-350", "v3.32.1/10-cnp-deny-cidr"])
def test_a_file_that_is_the_attached_program_still_is_it(name):
    members = experiments()[name]._members
    files = {path: load_file(parse_file_name(path[7:]), one) for path, one in members.items() if path[:7] == "policy/"}
    parts = {path: parts_of(one) for path, one in files.items()}
    tags = {path: [min(program_tags(code)) for code in several] for path, several in parts.items()}
    rows = [{"id": 1, "load_time": 0, "map_ids": [], "tag": tag} for path in tags for tag in tags[path]]
    other = {"id": 2, "load_time": 0, "map_ids": [], "tag": "0123456789abcdef"}
    redaction = Redaction({**members, "programs.json": json.dumps([*rows, other]).encode()}, KEY)
    redacted = redaction.redacted()
    new = iter(one["tag"] for one in json.loads(redacted["programs.json"]))
    for path, file in files.items():
        about = parse_file_name(path[7:])
        renamed = f"policy/{redaction.names.interface(about.interface)}{path[7 + len(about.interface) :]}"
        attached = [next(new) for _ in tags[path]]
        assert file.is_program(tags[path])
        assert load_file(parse_file_name(renamed[7:]), redacted[renamed]).is_program(attached)
    assert next(new) == other["tag"]


def parts_of(file):
    """The code of each program of a file."""
    starts = [*file.program.parts, len(file.instructions)]
    return [[one.code for one in file.instructions[start:end]] for start, end in itertools.pairwise(starts)]


def test_code_compares_with_each_of_several_networks():
    networks = ["2001:db8::/64", "2001:db9::/64", "fd00::/8"]
    instructions = [
        {"inst": list(code), "annotation": note} for one in networks for code, note in cidr_code(one, b"\x01\0")
    ]
    names, _, (_, redacted) = files(b"{", json.dumps({"policyInfo": instructions}).encode())
    expected = [code for one in networks for code, _ in cidr_code(names.addresses.one(one), b"\x01\0")]
    assert expected == [one.code for one in PolicyFile(redacted).instructions()]


def test_a_rule_s_text_keeps_its_fields():
    text = (
        'action:"allow" protocol:{name:"tcp"} src_net:"10.1.0.0/16" dst_ip_set_ids:"s:0123456789abcdef0123" '
        'original_src_selector:"app == \\"web\\"" src_service_account_match:{names:"robot"} log_prefix:"secret" '
        'metadata:{annotations:{key:"owner" value:"bob"}} rule_id:"ktmywYLh73TRV7Rh"'
    )
    content = written(
        f"Start of rule ns-b/gate {text}", "End of rule ns-b/gate ktmywYLh73TRV7Rh", "End of rule ktmywYLh73TRV7Rh"
    )
    _, _, (redacted,) = files(content)
    for gone in ("10.1.", "0123456789abcdef", "web", "robot", "secret", "owner", "bob", "ktmyw", "ns-b", "gate"):
        assert gone.encode() not in redacted
    comment = json.loads(redacted)["policyInfo"][0]["comments"][0]
    fields = parse_rule_text(comment.partition("action")[1] + comment.partition("action")[2])
    assert [name for name, _ in parse_rule_text(text)] == [name for name, _ in fields]
    assert dict(fields)["action"] == "allow"
    assert dict(fields)["protocol"] == [("name", "tcp")]


@pytest.mark.parametrize(
    "content", [b"", b"secret", b'{"ifacename": "secret"', b'{"policyInfo": [{"inst": "secret"}]}']
)
def test_a_file_that_cannot_be_parsed_is_replaced_by_one_that_cannot(content):
    assert [b"{"] == files(content)[2]


A, B, C = "10.65.0.2", "10.65.0.3", "192.0.2.9"
A6, B6, C6 = "fd00:65::2", "fd00:65::3", "2001:db8::9"


@pytest.mark.parametrize(("a", "b", "c", "family"), [(A, B, C, 4), (A6, B6, C6, 6)])
def test_maps_have_the_entries_of_the_new_addresses(a, b, c, family):
    def entries(a, b, c):
        net = ipaddress.ip_network(f"{a}/{24 if family == 4 else 64}", strict=False)
        host = f"{a}/{8 * len(ipaddress.ip_address(a).packed)}"
        yield decode_frontends, NAT_FRONTENDS, frontend(a, 80, 6, 7, 1, source=net)
        yield decode_backends, NAT_BACKENDS, backend(7, 0, b, 8080)
        yield decode_affinity, NAT_AFFINITY, affinity(a, 80, 6, b, c, 8080, 5)
        yield decode_routes, ROUTES, route(net, 0x4, next_hop=c)
        yield decode_routes, ROUTES, route(host, 0xC, ifindex=7)
        yield flows, CONNTRACK, flow(6, (a, 1), (b, 2), {"bits": OPENER}, {})
        yield flows, CONNTRACK, flow(6, (a, 1), (b, 2), {"bits": OPENER}, {}, service=(c, 3))
        yield ends, CONNTRACK, forward(6, (a, 1), (b, 2), (c, 3))

    def flows(table):
        return list(decode_conntrack(table))

    def ends(table):
        """The two ends of the key, and of the reverse entry's key behind the head of the value, in any order."""
        size = len(ipaddress.ip_address(a).packed)
        both = [struct.unpack_from(f"<4x{size}s{size}sHH", raw) for raw in (table.keys, table.values[BODY:])]
        return [{(one, port), (other, other_port)} for one, other, port, other_port in both]

    names = Names(KEY)
    rows = MapRows(names, RuleIds(names, KEY, ()))
    renamed = map(names.addresses.one, (a, b, c))
    for (decode, datum, before), (_, _, after) in zip(entries(a, b, c), entries(*renamed), strict=True):
        key, value = rows.redact(datum[family], tuple(map(len, before)), *before)
        assert decode(columns(after)) == decode(columns((key, value)))
        assert not any(ipaddress.ip_address(one).packed in key + value for one in (a, b, c))


@pytest.mark.parametrize("number", [0, 1, (1 << 64) - 1, 1 << 64, 10**20 - 1, 10**30])
def test_an_id_of_any_size_is_replaced_or_stays(number):
    assert "policyInfo" in json.loads(files(written("Start of rule a: b", f"Rule MatchID: {number}"))[2][0])


@pytest.mark.parametrize("name", ["k8s ns%2Fp\udc80 eth0", "\udc80 ns%2Fp eth0", "\udc80", "a b", "k8s a%FFb c", ""])
def test_a_status_file_of_any_name_and_content_is_redacted(name):
    for content in (b"\xff", b"[]", b'{"ifaceName": "\\ud800"}', b'{"ifaceName": "x", "ipv4Nets": [1, "no", {}]}'):
        head = {"about": {}, "pins": [], "folders": {}, "errors": {}, "attach_point_folders": []}
        members = {"bundle.json": json.dumps(head).encode(), f"endpoint-status/{name}": content}
        assert 2 == len(Redaction(members, KEY).redacted())


def test_an_unknown_layout_is_left_out_and_said():
    rows = MapRows(Names(KEY), RuleIds(Names(KEY), KEY, ()))
    for datum in (IP_SETS[4], ROUTES[6], CONNTRACK[4]):
        assert rows.redact(datum, (7, 9), bytes(14), bytes(18)) is None
    assert (b"\1" * 7, b"\2" * 9) == rows.redact(COUNTERS, (7, 9), b"\1" * 7, b"\2" * 9)


@law_of_recordings(NAMES)
def law_nothing_of_before_is_left(recording):
    members = {name: content for name, content in recording.members.items() if not name.startswith("oracle/")}
    gone_from(members, recording.bundle)


@pytest.mark.parametrize("name", experiments())
def test_nothing_of_an_experiment_is_left(name):
    experiment = experiments()[name]
    gone_from(experiment._members, experiment.bundle)


def gone_from(members, bundle):
    """Asserts that no name, address or selector of a bundle is in its redaction."""
    redacted = Redaction(members, KEY).redacted()
    Bundle(redacted)
    text = b"\n".join(name.encode() + b"\n" + content for name, content in redacted.items()).decode("latin-1")
    words = set(re.findall(r"[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?", text.replace("%2F", " ")))
    assert originals(bundle)
    assert set() == originals(bundle) & words


def originals(bundle):
    """The names and addresses of a bundle as this program reads them."""
    found = {address.address for address in bundle.host_routes() if not address.address.startswith("169.254.")}
    found -= {"2001:db8::1"}
    for name, content in bundle.endpoint_status().files.items():
        found |= set(name.split(" ")[1].split("%2F")) | {json.loads(content)["ifaceName"]}
    for name, content in bundle.policy_files().files.items():
        about = parse_file_name(name)
        for one in parse_policy_file(about, content).tiers:
            found |= {part for policy in one.policies for part in re.split("[./]", policy.name)} | {one.name}
            rules = [rule for policy in one.policies for rule in policy.rules]
            found |= {word for rule in rules for word in re.findall(r"'([\w-]+)'", rule.text)}
            found |= {word for rule in rules for word in re.findall(r"[0-9a-f.]+/[0-9]+", rule.text)}
            named = (policy for policy in one.policies if policy.name not in KEPT)
            found |= {str(rule.id) for policy in named for rule in policy.rules if rule.id}
    return {one for one in found if len(one) > 1} - KEPT


def test_tables_and_sentences_are_redacted():
    pods = [{"namespace": "shop", "pod": "cart-1", "addresses": ["10.1.2.3"], "owner_kind": "Job", "owner": "cart"}]
    listed = {"pods": pods, "synced": 1.5, "errors": {"connect": 2}, "node": "worker-7.example.org"}
    head = {
        "format": 1,
        "about": {"exporter": "1", "node": "worker-7.example.org", "note": "of Bob"},
        "pins": ["cali_v4_ip_sets"],
        "attach_point_folders": ["cali99_igr"],
        "folders": {
            "endpoint_status": {"present": True, "problems": ["/x/k8s shop%2Fdb eth0 was left out"], "unread": []},
            "policy_files": {"present": True, "problems": ["y/cali99_egress_v4.json"], "unread": []},
        },
        "errors": {
            "endpoint-status/k8s shop%2Fbig eth0": "it has 17 MiB",
            "policy/cali99_ingress_v4.json": "it has 17 MiB",
            "nics": "https://api.example.org:6443 refused shop/cart-1 at 10.1.2.3",
            "pins": "no db",
        },
    }
    head["folders"]["endpoint_status"]["unread"] = ["k8s shop%2Fdb eth0"]
    head["folders"]["policy_files"]["unread"] = ["cali99_egress_v4.json"]
    members = {
        "bundle.json": json.dumps(head).encode(),
        "pods.json": json.dumps(listed | {"problem": "worker-7 knows no cart-1"}).encode(),
        "nics.json": b'{"cali99": {}}',
        "maps/cali_v4_ip_sets/info.json": b'{"info": {"key_size": 5, "value_size": 4}}',
        "maps/cali_v4_ip_sets/keys": b"12345",
        "maps/cali_v4_ip_sets/values": b"1234",
        "policy/README secret": b"secret",
        "secret.txt": b"secret",
    }
    redacted = Redaction(members, KEY).redacted()
    written = b"\n".join(name.encode() + b" " + content for name, content in redacted.items()).decode()
    for gone in (
        "shop",
        "cart",
        "worker",
        "example",
        "cali99",
        "cali99_ingress_v4",
        "db",
        "big",
        "10.1.2.3",
        "Bob",
        "secret",
        "12345",
    ):
        assert not re.search(rf"(?<![\w-]){gone}(?![\w-])", written), gone
    after = json.loads(redacted["bundle.json"])
    assert "its layout is not known" in after["errors"]["maps/cali_v4_ip_sets"]
    assert "refused name-" in after["errors"]["nics"]
    assert re.search(r"k8s name-\w+%2Fname-\w+ eth0 was left out", after["folders"]["endpoint_status"]["problems"][0])
    new = json.loads(redacted["pods.json"])
    assert ("Job", 1.5, {"connect": 2}) == (new["pods"][0]["owner_kind"], new["synced"], new["errors"])
    assert new["node"] == after["about"]["node"]


SENTENCES = (
    (
        "the API server does not let this exporter list pods (403): pods is forbidden: User "
        '"system:serviceaccount:acme:bob" cannot list resource "pods" in API group "" at the cluster scope'
    ),
    "the kubeconfig /home/bob/acme.yaml cannot be used: [Errno 2] No such file or directory: '/home/bob/acme.yaml'",
    "the certificate of the API server https://acme.test:6443 was refused: it is for k8s.acme.test, not bob.test",
    "the API server https://10.9.8.7/k8s/clusters/c-acme did not answer: bob.acme.svc is not known",
    "/var/run/acme/endpoint-status/k8s acme%2Fbob eth0: its node's file is not JSON",
    "cali0acme-bob: no such device; neither is cali0123456789a",
)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_that_quotes_others_names_nobody(sentence):
    """None of these names stands elsewhere in the bundle."""
    head = {"about": {}, "pins": [], "errors": {"pods": sentence}, "attach_point_folders": []}
    folder = {"present": True, "problems": [sentence], "unread": []}
    members = {
        "bundle.json": json.dumps(head | {"folders": {"policy_files": folder}}).encode(),
        "pods.json": json.dumps(
            {"pods": [], "node": "bob.acme.test", "problem": f"bob.acme.test: {sentence}"}
        ).encode(),
        "policy/cali1_ingress_v4.json": json.dumps({"error": sentence, "policyInfo": []}).encode(),
    }
    redacted = Redaction(members, KEY).redacted()
    assert 3 == sum(b"name-" in content for content in redacted.values())
    for gone in (b"acme", b"bob", b"10.9.8", b"0123456789a"):
        assert [name for name, content in redacted.items() if gone in content] == []


def test_a_sentence_of_the_programs_own_stays():
    for sentence in (
        "it has 17 MiB, more than a bundle may hold",
        "the API server has not answered yet",
        "failed to load BPF policy program IPV4: invalid argument",
        "this process runs in no cluster that it could ask; --kubernetes.kubeconfig names one from outside",
        "/sys/fs/bpf/tc/globals/cali_counters6 could not be read: Permission denied",
        "the node's eth0 has no address",
    ):
        assert sentence == Names(KEY).sentence(sentence)


def test_what_felix_may_write_one_day_names_nobody():
    comments = [
        "Policy acme of bob",
        "Start of  acme",
        "Start of NetworkPolicy acme/bob",
        "End of NetworkPolicy acme bob",
        'Start of rule acme/bob src_selector:\'acme\' notes:bob src_net:"acme" rule_id:"1"',
        "Start of rule src_selector:\"node-role.kubernetes.io/acme == 'b' && bob.k8s.io/acme == 'c'\" rule_id:\"2\"",
    ]
    row = {"inst": [0] * 8, "labels": ["of_acme"], "comments": comments, "annotation": "R1 = 7 /* bob */"}
    jump = {"inst": [0] * 8, "annotation": "goto acme"}
    content = json.dumps({"hook": "tc of bob", "policyInfo": [row, jump]}).encode()
    (redacted,) = files(content)[2]
    assert (b"acme" in redacted, b"bob" in redacted) == (False, False)
    first, second = json.loads(redacted)["policyInfo"]
    assert 5 == len(first["comments"])
    assert second["annotation"].startswith("goto ")


@pytest.mark.parametrize("name", ["v3.29.7/57-hep-traffic.after", "v3.32.1/02-ingress-deny.after"])
def test_what_felix_writes_keeps_its_form(name):
    """Comments, labels and annotations of a known form are neither left out nor replaced."""
    members = Recording(name).members
    redacted = Redaction(members, KEY).redacted()
    before = [PolicyFile(one) for path, one in members.items() if path.startswith("policy/")]
    after = [PolicyFile(one) for path, one in redacted.items() if path.startswith("policy/")]
    for one, other in zip(before, after, strict=True):
        assert one.text("hook") == other.text("hook")
        for old, new in zip(one.instructions(), other.instructions(), strict=True):
            assert (old.labels, old.annotation) == (new.labels, new.annotation)
            assert len(old.comments) == len(new.comments)
