import io
import json
import lzma
import tarfile
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied, MapError, MapInfo, ReadAborted
from exporter.calico import LayoutError
from exporter.cli.main import sentence_of
from exporter.diagnosis.check import findings
from exporter.node import NodeError
from exporter.node.pods import ClusterPod, ClusterPods
from exporter.snapshot.bundle import BundleError, read_bundle
from exporter.snapshot.bundle_writer import PARTS as BUNDLE_PARTS
from exporter.snapshot.bundle_writer import write_bundle
from tests.service_tables import backend, frontend, route

ROUND_TRIPS = [
    "v3.29.7/57-hep-traffic.after",
    "v3.30.7/05-eot-egress-deny.before",
    "v3.31.6/65-qos.after",
    "v3.32.1/54-cli-32bit-truncation.after",
    "upgrade/4-v3.32.1",
    "upgrade/5-v3.31.6-downgraded.after",
]
PARTS = (
    "counters",
    "ifstate",
    "rule_map",
    "links",
    "host_routes",
    "nics",
    "pods",
    "cluster_pods",
    "endpoints",
)
JSON_MEMBERS = [
    "bundle.json",
    "links.json",
    "routes.json",
    "programs.json",
    "nics.json",
    "addresses.json",
    "maps/cali_counters6/info.json",
]
MAP_MEMBERS = [f"maps/{name}/{part}" for name in ("cali_counters6", "cali_iface4") for part in ("keys", "values")]


@pytest.fixture(scope="session")
def node(make):
    """A node with something odd in every part."""
    sparse = make.counters("cali_counters6", 60, {(5, 0): {0: 11, 4: 10}, (0xFFFFFFFF, 2): {26: 1 << 40}})
    info = MapInfo("/sys/fs/bpf/tc/globals/cali_counters5", 50, "cali_counters5", "percpu_hash", 8, 200, 20000, 0)
    many_cpus = replace(sparse, info=info, values=bytes(range(256)) * 200, copies=128)
    empty = make.counters("cali_counters2", 20, {}, slots=14)
    return make.node(
        [
            sparse,
            many_cpus,
            empty,
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("cali5", 0x7)}),
            make.ifstate("cali_iface2", 41, {3: ("eth0", 0xE)}, size=20),
            make.rules("cali_rule_ctrs2", 21, {0: 3, (1 << 64) - 1: (1 << 64) - 1}),
            make.programs("cali_progs_ing2", 2, 7, 8),
            make.table("cali_v4_nat_fe3", 81, "lpm_trie", frontend("10.96.0.7", 80, 6, 1, 1)),
            make.table("cali_v6_nat_be", 82, "hash", backend(1, 0, "fd00::2", 8080)),
            make.table("cali_v4_routes", 83, "lpm_trie", route("10.65.0.2/32", 0xD, ifindex=5)),
        ],
        links=[make.link(3, "eth0"), make.link(5, "cali5"), make.link(9, 'odd\\xff"\n')],
        host_routes=[make.route("10.65.0.2", 5), make.route("fd00::2", 5), make.route("10.65.0.2", 3)],
        addresses=[make.address("10.0.0.2", 24, 3), make.address("fd00::1", 64, 3)],
        clock_ns=1 << 50,
        cluster_pods=ClusterPods(
            (ClusterPod("ns", "web", ("10.65.0.2", "fd00::2"), "ReplicaSet", "web-1"), ClusterPod('odd"\n', "bare")),
            1e9 + 0.5,
            "the API server is away",
            {"gone": 1, "connection": 2},
        ),
        nics={"eth0": make.nic((1, 2, 3, 4), (5, 6, 7, 1 << 63)), 'odd\udcff"\n': make.nic((0,) * 4, (0,) * 4)},
        attach_point_folders=["eth0_igr"],
        programs=[make.program(7, 1 << 60, 60, 21), make.program(8, 5), make.program(99, 6, 50)],
        endpoint_status=make.folder("x could not be read", **{"k8s ns%2Fp eth0": b'{"ifaceName":"cali5"}'}),
        policy_files=make.folder(**{"cali5_egress_v4.json": bytes(range(256)), "empty": b""}),
    )


@pytest.fixture
def opened(tmp_path):
    """Reads these bytes as a bundle."""

    def read(archive):
        path = tmp_path / "node.tar.xz"
        path.write_bytes(archive)
        return read_bundle(path)

    return read


@pytest.fixture(scope="session")
def small(make, node):
    """The archive of the odd node without its largest map."""
    return make.bundled(make.node(dump for name, dump in node.maps.items() if name != "cali_counters5"))


@pytest.fixture(scope="session")
def plain(make, node):
    """Gives the members of a bundle of the odd node with one version of each map."""
    maps = [dump for name, dump in node.maps.items() if name not in ("cali_counters5", "cali_counters2", "cali_iface2")]
    members = make.members(make.bundled(make.node(maps, **node.facts)))
    return lambda: members


@pytest.fixture(scope="session")
def reread(tmp_path_factory):
    """As `opened`, for laws that read many times."""
    path = tmp_path_factory.mktemp("bundles") / "node.tar"

    def read(archive):
        path.write_bytes(archive)
        return read_bundle(path)

    return read


def same(make, one, other):
    dumps = all(make.same_dump(one.map_dump(name), other.map_dump(name)) for name in one.pin_names())
    return sorted(one.pin_names()) == sorted(other.pin_names()) and dumps and make.same_facts(one, other)


# Round trips


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_recorded_node_comes_back_equal_from_a_bundle_of_its_bundle(make, recorded, opened, name):
    again = opened(make.bundled(recorded(name), recorded(name).about))
    assert same(make, recorded(name), again)
    assert recorded(name).about == again.about
    assert "bundle" == again.reader_name


def test_every_odd_part_of_a_node_comes_back_equal(make, node, opened):
    again = opened(make.bundled(node, {"node": "näme", "kernel": "6.18"}))
    assert same(make, node, again)
    assert {"node": "näme", "kernel": "6.18"} == again.about
    assert ["cali5_egress_v4.json", "empty"] == again.policy_file_names()


def test_only_the_programs_in_calicos_arrays_are_kept(make, node, opened):
    again = opened(make.bundled(node))
    assert node.programs([7, 8]) == again.programs([7, 8, 99])
    assert [] == again.programs([])


def test_folders_that_are_absent_or_empty_stay_so(make, opened):
    absent = opened(make.bundled(make.node()))
    assert (False, {}) == (absent.endpoint_status().present, absent.endpoint_status().files)
    assert [] == absent.policy_file_names()
    empty = opened(make.bundled(make.node(endpoint_status=make.folder(), policy_files=make.folder())))
    assert (True, True) == (empty.endpoint_status().present, empty.policy_files().present)


def test_a_node_without_calico_comes_back_as_one(make, opened):
    again = opened(make.bundled(make.node()))
    assert [] == again.pin_names()
    assert again.proven_live() is None


@pytest.mark.parametrize("name", ROUND_TRIPS[:4])
def test_the_same_snapshot_gives_the_same_archive(make, recorded, name):
    assert make.bundled(recorded(name)) == make.bundled(recorded(name))


def test_the_live_map_that_was_known_on_the_node_is_known_from_the_bundle(make, node, opened):
    assert 60 == opened(make.bundled(node)).proven_live()


def test_what_was_undecided_on_the_node_is_undecided_from_the_bundle(recorded, opened, make):
    assert opened(make.bundled(recorded("upgrade/4-v3.32.1"))).proven_live() is None


NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and not any("\ud800" <= one <= "\udfff" for one in name)
)
RAW_NAMES = st.binary(min_size=1, max_size=200).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))


@given(
    st.dictionaries(NAMES | RAW_NAMES.map(lambda raw: raw.decode("utf-8", "surrogateescape")), st.binary(), max_size=3)
)
def test_files_of_any_name_and_content_come_back_equal(make, reread, files):
    folder = make.folder(**files)
    again = reread(make.bundled(make.node(endpoint_status=folder, policy_files=folder)))
    assert folder == again.endpoint_status() == again.policy_files()


# Errors on the node


@pytest.mark.parametrize(
    ("fact", "error", "ask"),
    [
        ("pin_names", MapDenied("may not be listed"), lambda bundle: bundle.pin_names()),
        ("links", NodeError("no netlink"), lambda bundle: bundle.links()),
        ("host_routes", NodeError("no routes"), lambda bundle: bundle.host_routes()),
        ("addresses", NodeError("no addresses"), lambda bundle: bundle.addresses()),
        ("nics", NodeError("no interface counters"), lambda bundle: bundle.nics()),
        ("endpoint_status", NodeError("no status"), lambda bundle: bundle.endpoint_status()),
        ("policy_files", NodeError("no policy"), lambda bundle: bundle.policy_files()),
        ("policy_files", NodeError("no policy"), lambda bundle: bundle.policy_file_names()),
        ("programs", MapDenied("no programs"), lambda bundle: bundle.programs([7])),
        ("attach_point_folders", MapDenied("no folders"), lambda bundle: bundle.attach_point_folders()),
    ],
)
def test_what_could_not_be_read_on_the_node_says_the_same_from_its_bundle(make, node, opened, fact, error, ask):
    broken = make.node(node.maps.values(), **{**node.facts, fact: error})
    again = opened(make.bundled(broken))
    kind = NodeError if isinstance(error, NodeError) else MapError
    with pytest.raises(kind, match=f"^{error}$"):
        ask(again)


@pytest.mark.parametrize("error", [MapDenied("refused: run as root"), ReadAborted("kept changing")])
def test_a_map_that_could_not_be_read_says_the_same_from_the_bundle(make, node, opened, error):
    broken = make.node(node.maps.values(), **node.facts)
    broken.maps["cali_iface4"] = error
    again = opened(make.bundled(broken))
    for ask in (again.map_info, again.map_dump):
        with pytest.raises(MapError, match=str(error)):
            ask("cali_iface4")
    assert make.same_dump(node.map_dump("cali_counters6"), again.map_dump("cali_counters6"))


def test_what_could_not_be_read_is_told_while_writing(make, node):
    broken = make.node(node.maps.values(), **{**node.facts, "links": NodeError("no netlink")})
    broken.maps["cali_iface4"] = MapDenied("refused")
    told = write_bundle(broken, make.snapshot(broken, parts=BUNDLE_PARTS), {}, io.BytesIO())
    assert ["links: no netlink", "maps/cali_iface4: refused"] == sorted(told.problems)
    assert (len(broken.maps) - 1, 3) == (told.maps, told.files)


def test_a_whole_node_has_nothing_to_tell(make, node):
    assert () == write_bundle(node, make.snapshot(node, parts=BUNDLE_PARTS), {}, io.BytesIO()).problems


def test_a_node_where_all_failed_still_makes_a_bundle_that_says_so(make, opened):
    parts = ("links", "host_routes", "nics", "endpoint_status", "policy_files", "cluster_pods")
    facts = dict.fromkeys(parts, NodeError("gone"))
    again = opened(make.bundled(make.node(pin_names=MapDenied("refused"), **facts)))
    snapshot = make.snapshot(again)
    assert {} == snapshot.endpoints.get().by_index
    for part in set(PARTS) - {"endpoints"}:
        with pytest.raises((MapError, NodeError), match=r"refused|gone"):
            getattr(snapshot, part).get()


# Every command asks this first, so a failure would close the bundle to all of them.
def test_a_live_map_that_was_known_but_could_not_be_read_is_no_failure_of_the_bundle(make, node, opened):
    broken = make.node(node.maps.values(), **node.facts)
    info = node.maps["cali_counters6"].info

    def map_dump(name, **_):
        if name == "cali_counters6":
            raise ReadAborted("kept changing")
        return node.maps[name]

    broken.map_dump, broken.map_info = map_dump, lambda name: info if name == info.name else node.maps[name].info
    assert opened(make.bundled(broken)).proven_live() in (60, None)


def test_a_map_that_the_bundle_does_not_hold_is_missing(make, node, opened):
    again = opened(make.bundled(node))
    with pytest.raises(MapError, match="holds no map cali_counters99"):
        again.map_dump("cali_counters99")


def test_a_bundle_made_before_interface_counters_were_part_of_it_says_so(make, recorded):
    with pytest.raises(NodeError, match="made before they were part of it"):
        make.snapshot(recorded("v3.32.1/01-egress-deny.after")).nics.get()


# Damaged bundles: always one sentence, at startup


def test_a_bundle_cut_off_anywhere_is_refused_or_whole(make, reread, small):
    whole, refused = reread(small), 0
    lengths = [*range(0, len(small), max(1, len(small) // 150)), *range(len(small) - 40, len(small))]
    for length in lengths:
        try:
            # Only the compression's own tail may be missing: then every member was still read.
            assert same(make, whole, reread(small[:length]))
        except BundleError:
            refused += 1
    assert refused > len(lengths) * 0.7


@given(st.data())
def test_a_bundle_with_any_byte_changed_is_refused_or_whole(make, reread, small, data):
    place = data.draw(st.integers(0, len(small) - 1))
    damaged = bytearray(small)
    damaged[place] ^= data.draw(st.integers(1, 255))
    with suppress(BundleError):
        assert same(make, reread(small), reread(bytes(damaged)))


@given(st.binary(max_size=3000))
def test_any_bytes_are_no_bundle(reread, anything):
    with pytest.raises(BundleError):
        reread(anything)


def test_what_is_no_file_is_a_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("x" * 300)):
        with pytest.raises(BundleError, match="could not be read"):
            read_bundle(path)


@pytest.mark.parametrize("suffix", ["", "gz", "bz2", "xz"])
def test_a_bundle_may_be_recompressed_in_any_way_tar_knows(make, node, opened, small, suffix):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{suffix}") as archive:
        for name, content in make.members(small).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert same(make, opened(small), opened(target.getvalue()))


@pytest.mark.parametrize("format_", [0, 2, "1", None, [], {}, -1])
def test_another_format_is_refused_by_name(make, opened, small, format_):
    members = make.members(small)
    members["bundle.json"] = json.dumps({**json.loads(members["bundle.json"]), "format": format_}).encode()
    with pytest.raises(BundleError, match="not of format 1: read it with the release that made it"):
        opened(make.archive(members))


@pytest.mark.parametrize("member", [one for one in JSON_MEMBERS + MAP_MEMBERS if one != "nics.json"])
def test_a_bundle_without_one_of_its_members_is_refused(make, opened, small, member):
    members = make.members(small)
    del members[member]
    with pytest.raises(BundleError):
        opened(make.archive(members))


RESIZED = {
    "cut": lambda raw: raw[:-1],
    "head": lambda raw: raw[:5],
    "longer": lambda raw: raw + b"\0",
    "twice": lambda raw: raw * 2,
}


@pytest.mark.parametrize("member", MAP_MEMBERS)
@pytest.mark.parametrize("change", RESIZED)
def test_a_map_whose_columns_do_not_fit_is_refused(make, opened, small, member, change):
    members = make.members(small)
    members[member] = RESIZED[change](members[member])
    with pytest.raises(BundleError):
        opened(make.archive(members))


@pytest.mark.parametrize("member", JSON_MEMBERS)
@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"nul", b"[" * 100_000, b"{}{}", b"1" * 5_000, b"\0"])
def test_a_member_that_is_not_json_is_refused(make, opened, small, member, text):
    with pytest.raises(BundleError):
        opened(make.archive({**make.members(small), member: text}))


@pytest.mark.parametrize("member", [one for one in JSON_MEMBERS if one.count("/") or one == "bundle.json"])
@pytest.mark.parametrize("value", [None, 7, "text", [], [1], {}, {"x": 1}])
def test_a_member_that_is_other_json_is_refused(make, opened, small, member, value):
    with pytest.raises(BundleError):
        opened(make.archive({**make.members(small), member: json.dumps(value).encode()}))


def changed(members, member, path, value):
    document = json.loads(members[member])
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return {**members, member: json.dumps(document).encode()}


def asks_everything(snapshot):
    """Asks for all that commands ask for; what is missing must be a sentence."""
    for part in PARTS:
        try:
            getattr(snapshot, part).get()
        except (MapError, NodeError, LayoutError):
            continue
    assert list(findings(snapshot))


@pytest.mark.parametrize(
    ("member", "path", "value"),
    [
        ("bundle.json", ["pins"], [5]),
        ("bundle.json", ["pins"], {"cali_counters6": 1}),
        ("bundle.json", ["pins"], None),
        ("bundle.json", ["about"], []),
        ("bundle.json", ["errors"], []),
        ("bundle.json", ["errors"], None),
        ("bundle.json", ["live"], "cali_counters6"),
        ("bundle.json", ["live"], {"pin": 5}),
        ("bundle.json", ["folders"], {}),
        ("bundle.json", ["folders", "policy_files"], []),
        ("bundle.json", ["folders", "policy_files", "problems"], [5]),
        ("bundle.json", ["attach_point_folders"], 5),
        ("links.json", [0], {"ifindex": "three", "name": "eth0"}),
        ("links.json", [0], {"ifindex": 3, "name": 5}),
        ("links.json", [0], {"ifindex": 3}),
        ("links.json", [0], {"ifindex": 3, "name": "eth0", "more": 1}),
        ("links.json", [0], 5),
        ("routes.json", [0], {"address": 5, "ifindex": 3}),
        ("routes.json", [0], {"address": "10.0.0.1"}),
        ("nics.json", ["eth0"], {}),
        ("nics.json", ["eth0", "sent"], 5),
        ("nics.json", ["eth0", "sent", "more"], 5),
        ("nics.json", ["eth0", "sent", "bytes"], "many"),
        ("programs.json", [0], {"id": 1, "load_time": 2}),
        ("programs.json", [0], {"id": 1, "load_time": 2, "map_ids": 5}),
        ("programs.json", [0], {"id": 1, "load_time": "x", "map_ids": [60]}),
        ("maps/cali_iface4/info.json", ["copies"], 0),
        ("maps/cali_iface4/info.json", ["copies"], -1),
        ("maps/cali_iface4/info.json", ["copies"], "1"),
        ("maps/cali_iface4/info.json", ["copies"], 1 << 70),
        ("maps/cali_iface4/info.json", ["info", "key_size"], 0),
        ("maps/cali_iface4/info.json", ["info", "key_size"], -4),
        ("maps/cali_iface4/info.json", ["info", "key_size"], "4"),
        ("maps/cali_iface4/info.json", ["info", "value_size"], 0),
        ("maps/cali_iface4/info.json", ["info", "more"], 1),
        ("maps/cali_iface4/info.json", ["info", "id"], [60]),
        ("maps/cali_iface4/info.json", ["info", "name"], None),
    ],
    ids=str,
)
def test_a_field_of_another_kind_is_refused_or_only_says_sentences(make, opened, plain, member, path, value):
    try:
        snapshot = make.snapshot(opened(make.archive(changed(plain(), member, path, value))))
    except BundleError:
        return
    asks_everything(snapshot)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
FIELDS = [
    ("bundle.json", [key])
    for key in ("format", "about", "reader", "pins", "attach_point_folders", "live", "folders", "errors")
]
FIELDS += [(member, [0]) for member in ("links.json", "routes.json", "programs.json")]
FIELDS += [("nics.json", ["eth0"]), ("nics.json", ["eth0", "sent"])]
FIELDS += [("maps/cali_iface4/info.json", [key]) for key in ("info", "copies")]
FIELDS += [("maps/cali_iface4/info.json", ["info", key]) for key in ("id", "name", "key_size", "value_size")]


@given(st.sampled_from(FIELDS), ANY_JSON)
def test_whatever_a_field_says_a_bundle_is_refused_or_only_says_sentences(make, reread, plain, field, value):
    member, path = field
    try:
        snapshot = make.snapshot(reread(make.archive(changed(plain(), member, path, value))))
    except BundleError:
        return
    asks_everything(snapshot)


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    ("member", "path", "value"),
    [
        ("routes.json", [0], {"address": "\x1b]0;", "ifindex": 3}),
        ("routes.json", [0], {"address": LONG, "ifindex": 3}),
        ("links.json", [0], {"ifindex": 3, "name": LONG}),
        ("links.json", [0], {"ifindex": 3, "name": [LONG]}),
        ("nics.json", ["eth0", "sent", LONG], 5),
        ("maps/cali_iface4/info.json", ["info", "type"], LONG),
        ("bundle.json", ["folders", "policy_files", "problems"], LONG),
        ("bundle.json", ["pins"], [LONG]),
    ],
    ids=range(8),
)
def test_what_no_node_has_is_refused_in_one_short_sentence(make, opened, plain, member, path, value):
    with pytest.raises(BundleError) as refused:
        opened(make.archive(changed(plain(), member, path, value)))
    assert len(str(refused.value)) < 1000


# Malicious archives


def header(name, kind=tarfile.REGTYPE, size=0, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, target
    return member


def raw_header(name, size, kind=b"0"):
    """A header alone, for what `tarfile` would not write: content that is not there."""
    return header(name, kind, size).tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [1 << 31, 1 << 40, 1 << 62])
def test_a_member_that_claims_a_huge_size_is_refused_unread(make, opened, small, size):
    archive = make.archive(make.members(small))
    with pytest.raises(BundleError):
        opened(raw_header("policy/huge", size) + archive)


# Python reads the name of the next member whole, whatever size it claims.
@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_a_name_that_claims_a_huge_size_is_refused(make, opened, small, kind, size):
    archive = make.archive(make.members(small))
    with pytest.raises(BundleError):
        opened(raw_header("././@LongLink", size, kind) + archive)


# CVE-2025-8194: a negative size can lead Python back to where it was, again and again.
@pytest.mark.parametrize("size", [-5, -512, -1024, -4096, -(1 << 40)])
@pytest.mark.timeout(3)
def test_a_negative_size_is_refused(make, opened, small, size):
    archive = make.archive(make.members(small))
    with pytest.raises(BundleError):
        opened(raw_header("policy/first", 0) + raw_header("policy/odd", size) + archive)


def test_many_members_that_together_are_too_large_are_refused(make, opened, monkeypatch, small):
    monkeypatch.setattr("exporter.archive.MAX_BYTES", 10_000)
    with pytest.raises(BundleError, match="decompresses to more than"):
        opened(make.archive(make.members(small) | {f"policy/{one}": bytes(1000) for one in range(20)}))


def test_a_small_file_that_unpacks_to_much_is_refused(make, opened, monkeypatch, small):
    monkeypatch.setattr("exporter.archive.MAX_BYTES", 1 << 20)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:xz") as archive:
        archive.addfile(header("policy/zeros", size=1 << 24), io.BytesIO(bytes(1 << 24)))
    assert len(target.getvalue()) < 1 << 14
    with pytest.raises(BundleError, match="decompresses to more than 1 MiB"):
        opened(target.getvalue())


# 137 KB of such an archive took 7 GB: parsed, JSON is much larger.
@pytest.mark.parametrize("member", ["bundle.json", "pods.json", "policy/a", "endpoint-status/a"])
def test_json_is_refused_before_it_is_unpacked(make, opened, small, member):
    large = b"[" + b"[]," * (6 << 20) + b"[]]"
    content = lzma.compress(make.archive({**make.members(small), member: large}), preset=0)
    assert len(content) < len(small) + (1 << 14)
    with pytest.raises(BundleError, match=f"its member '{member}' has more than 16 MiB"):
        opened(content)


@pytest.mark.parametrize(("column", "mebibytes"), [("keys", 32), ("values", 256)])
def test_a_column_of_a_map_is_refused_unread(make, opened, small, column, mebibytes):
    name = f"maps/cali_counters6/{column}"
    claim = raw_header(name, (mebibytes << 20) + 1)
    with pytest.raises(BundleError, match=f"its member '{name}' has more than {mebibytes} MiB"):
        opened(claim + make.archive(make.members(small)))


def test_a_node_with_more_than_a_bundle_may_hold_gives_one_that_can_be_read(make, recorded, opened, monkeypatch):
    node, limit = recorded("v3.32.1/02-ingress-deny.after"), 3000
    monkeypatch.setattr("exporter.snapshot.bundle_writer.max_bytes", lambda name: limit if "/" in name else 1 << 20)
    again = opened(make.bundled(node))
    left_out = {name for name, content in node.policy_files().files.items() if len(content) > limit}
    assert left_out
    assert node.policy_files().files.keys() - left_out == again.policy_files().files.keys()


def test_too_many_members_are_refused(make, opened, small):
    # More than the files of any node; a header of zero bytes compresses to nothing.
    headers = b"".join(raw_header(f"policy/{number}", 0) for number in range(60_000))
    with pytest.raises(BundleError, match="it has more than 50000 members"):
        opened(lzma.compress(headers + bytes(1024), preset=0))


def test_a_machine_without_memory_is_a_sentence(make, opened, monkeypatch, small):
    def refuse(_):
        raise MemoryError

    monkeypatch.setattr("exporter.snapshot.bundle.json.loads", refuse)
    with pytest.raises(BundleError, match="could not be read: the process was refused memory"):
        opened(small)
    assert "the process was refused memory" in sentence_of(MemoryError())


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_a_small_file_that_unpacks_to_a_long_name_is_refused(make, opened, monkeypatch, small, kind):
    monkeypatch.setattr("exporter.archive.MAX_BYTES", 1 << 20)
    name = b"x" * (1 << 24) if kind == b"L" else b"%d comment=%s\n" % (1 << 24, b"x" * ((1 << 24) - 18))
    long = raw_header("././@LongLink", len(name), kind) + name + raw_header("policy/short", 0)
    with pytest.raises(BundleError):
        opened(lzma.compress(long + make.archive(make.members(small)), preset=0))


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_names_of_names_of_names_are_refused_or_read(make, opened, small, kind):
    with suppress(BundleError):
        opened(raw_header("././@LongLink", 0, kind) * 3000 + make.archive(make.members(small)))


# CVE-2024-6232: in older Pythons the time grows with the square of the digits.
@pytest.mark.timeout(5)
def test_a_header_full_of_digits_takes_no_time(make, opened, small):
    digits = b"1" * (1 << 19)
    with suppress(BundleError):
        opened(raw_header("odd", len(digits), b"x") + digits + make.archive(make.members(small)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("member", ["bundle.json", "links.json", "maps/cali_counters6/info.json"])
def test_a_member_that_is_not_a_regular_file_is_as_good_as_missing(make, opened, small, kind, member):
    members = make.members(small)
    members[member] = header(member, kind, target="/etc/hostname")
    with pytest.raises(BundleError):
        opened(make.archive(members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_another_member_is_not_followed(make, opened, small, kind):
    members = make.members(small) | {"policy/link": header("policy/link", kind, target="bundle.json")}
    with suppress(BundleError):
        assert {} == opened(make.archive(members)).policy_files().files


# Regression: `tar` writes an entry for each directory, so bundles re-created by hand were refused.
def test_entries_of_folders_are_ignored(make, opened, small):
    folders = {name: header(name, tarfile.DIRTYPE) for name in ("maps", "maps/cali_counters6", "policy")}
    assert same(make, opened(small), opened(make.archive(folders | make.members(small))))


def test_members_outside_the_format_are_ignored_and_nothing_is_extracted(make, opened, small, tmp_path):
    odd = ["../escaped", "/escaped", "oracle/x", "policy", "maps/other/keys", "links.json.bak", ""]
    again = opened(make.archive(make.members(small) | dict.fromkeys(odd, b"x")))
    assert same(make, opened(small), again)
    assert ["node.tar.xz"] == [one.name for one in tmp_path.iterdir()]
    assert not (tmp_path.parent / "escaped").exists()


def test_a_bundle_is_read_without_its_file(make, node, opened, tmp_path):
    again = opened(make.bundled(node))
    (tmp_path / "node.tar.xz").unlink()
    assert same(make, node, again)
