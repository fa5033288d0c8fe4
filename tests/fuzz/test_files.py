"""Whatever is in a folder of Calico's, each file is kept whole or is one sentence, and no other file is lost by it."""

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.layout_file import LayoutFileError, parse_layout_file
from exporter.node.endpoint_status import pods_of
from exporter.node.files import read_folder
from exporter.node.policies import read_policies
from tests.fuzz.shapes import encoded

NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name)
STATUS = {"ifaceName": "cali1", "ipv4Nets": ["10.0.0.1/32"], "ipv6Nets": []}
POLICY = {"ifacename": "cali1", "hook": "tc ingress", "info": "x", "family": "ipv4", "insns": [{"comments": ["a"]}]}
LAYOUT = {"when_slots": 28, "slots": {"27": {"category": "accepted", "reason": "egress_gateway"}}}


def filled(folder, files):
    """The folder with these files in it, by names that are bytes."""
    for name, content in files.items():
        if name not in (b".", b".."):
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:  # noqa: PTH118, PTH123  names are bytes
                file.write(content)
    return {os.fsdecode(name): content for name, content in files.items() if name not in (b".", b"..")}


@given(st.dictionaries(NAMES, st.binary(), max_size=5))
def test_files_of_any_name_are_read_back(files):
    with tempfile.TemporaryDirectory() as folder:
        expected = filled(folder, files)
        found = read_folder(Path(folder))
    assert (expected, ()) == (found.files, found.problems)


@given(st.dictionaries(NAMES | st.just(b"k8s ns%2Fpod eth0"), encoded(STATUS), max_size=4))
def test_each_endpoint_status_file_is_a_pod_or_a_sentence(files):
    with tempfile.TemporaryDirectory() as folder:
        expected = filled(folder, files)
        found = pods_of(read_folder(Path(folder)))
    assert len(expected) == len(found.pods) + len(found.problems)
    assert all(one.isprintable() for one in found.problems)


PROGRAMS = NAMES | st.sampled_from([b"cali1_ingress_v4.json", b"cali1_egress_v6.json"])


@given(st.dictionaries(PROGRAMS, encoded(POLICY), max_size=4))
def test_each_policy_file_is_a_program_or_a_sentence_or_none_of_calicos(files):
    with tempfile.TemporaryDirectory() as folder:
        expected = filled(folder, files)
        found = read_policies(Path(folder))
    assert set(expected) == set(found.files) | set(found.unread)
    assert len(found.unread) == len(found.problems)
    assert all("\n" not in one for one in found.problems)


@given(encoded(LAYOUT))
def test_any_layout_file_names_slots_or_is_an_error(content):
    text = content.decode("utf-8", "surrogateescape")
    try:
        layout = parse_layout_file(text)
    except LayoutFileError:
        return
    assert all(0 <= number < layout.when_slots for number in layout.slots)
