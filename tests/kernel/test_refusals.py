"""What each reader says when there is nothing to read, or the kernel says no."""

import errno
import json
import os
import subprocess
import sys

import pytest

from exporter.bpf.maps import MapDenied, MapError, MapMissing, NotAMap
from exporter.bpf.pins import list_pins
from tests.kernel.conftest import READERS
from tests.kernel.machine import HERE, ROOT, compile_bpf, load_programs, run
from tests.kernel.pinned import PERCPU_HASH, delete, put, u64

pytestmark = pytest.mark.kernel

_NOBODY = 65534
# Asked once with all rights, so that everything is loaded when they go: the interpreter itself may be out of an
# ordinary user's reach.
_AS_NOBODY = """
import json, os, sys
from exporter.bpf.maps import MapError
from exporter.bpf.readers import open_reader

name, question, subject, user = *sys.argv[1:4], int(sys.argv[4])
reader = open_reader(name)
ask = {"info": reader.info, "read": reader.read, "programs": lambda number: reader.programs([int(number)])}[question]
ask(subject)
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
try:
    answer = ask(subject)
except MapError as error:
    print(json.dumps([type(error).__name__, str(error)]))
else:
    print(json.dumps(["read", repr(answer)]))
"""


def assert_sentence(subject, text: str) -> None:
    """One line that names what it is about and is no traceback."""
    assert str(subject) in text
    assert "\n" not in text
    assert "Traceback" not in text


def refusal(reader, question: str, pin) -> MapError:
    with pytest.raises(MapError) as caught:
        getattr(reader, question)(str(pin))
    assert_sentence(pin, str(caught.value))
    return caught.value


def ask_as_nobody(name: str, question: str, subject) -> tuple[str, str]:
    """The class and the sentence of the refusal that a process without any right gets."""
    words = [sys.executable, "-c", _AS_NOBODY, name, question, str(subject), str(_NOBODY)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kind, sentence = json.loads(done.stdout)
    return kind, sentence


@pytest.fixture(params=["info", "read"])
def question(request):
    return request.param


def test_a_pin_that_does_not_exist_is_missing(reader, pins, question):
    assert MapMissing is type(refusal(reader, question, pins / "cali_counters6"))


def test_a_pin_in_a_folder_that_does_not_exist_is_missing(reader, bpf_fs, question):
    assert MapMissing is type(refusal(reader, question, bpf_fs / "other/globals/cali_counters6"))


def test_a_regular_file_is_no_map(reader, bpf_mount, tmp_path, question):
    path = tmp_path / "cali_counters6"
    path.write_bytes(b"no map")
    assert NotAMap is type(refusal(reader, question, path))


def test_a_directory_is_no_map(reader, pins, question):
    # The kernel says "Permission denied" of it, to root too: that is no lack of rights.
    assert type(refusal(reader, question, pins)) in (NotAMap, MapError)


def test_a_pinned_program_is_no_map(reader, make_map, bpf_fs, counting, question):
    load_programs(counting, bpf_fs / "loaded", make_map("cali_counters6", PERCPU_HASH, 8, 216).pin)
    assert NotAMap is type(refusal(reader, question, bpf_fs / "loaded/from_pod"))


# Attaches a program to the loopback interface of a namespace that ends with it, and pins what holds it there.
_PIN_A_LINK = """
import os, sys
from pathlib import Path
from tests.kernel.pinned import call, open_pin

bpf_xdp, loopback = 37, 1
link = call("bpf_link_create", open_pin(Path(sys.argv[1])), loopback, bpf_xdp, None)
call("bpf_obj_pin", link, os.fsencode(sys.argv[2]))
"""


def test_a_pinned_link_is_no_map(reader, bpf_fs, tmp_path, question):
    # The kernel says "Invalid argument" when one is opened read-only.
    compile_bpf(HERE / "passing.c", tmp_path / "passing.o")
    run("bpftool", "prog", "load", tmp_path / "passing.o", bpf_fs / "passing")
    run("unshare", "--net", sys.executable, "-c", _PIN_A_LINK, bpf_fs / "passing", bpf_fs / "link", cwd=ROOT)
    assert NotAMap is type(refusal(reader, question, bpf_fs / "link"))


def test_a_symbolic_link_to_a_map_is_followed(reader, make_map, pins):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    (pins / "another").symlink_to(made.pin)
    assert reader.info(str(made.pin)).id == reader.info(str(pins / "another")).id


def test_a_symbolic_link_to_nothing_is_missing(reader, pins, question):
    (pins / "dangling").symlink_to(pins / "nothing")
    assert MapMissing is type(refusal(reader, question, pins / "dangling"))


@pytest.mark.parametrize("name", READERS)
def test_a_process_without_rights_is_denied_and_told_which_it_needs(name, make_map, question):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    kind, sentence = ask_as_nobody(name, question, made.pin)
    assert MapDenied.__name__ == kind
    assert_sentence(made.pin, sentence)
    assert "run as root" in sentence


@pytest.mark.parametrize("name", READERS)
def test_a_folder_that_may_not_be_entered_denies_what_is_in_it(name, make_map, pins):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    pins.chmod(0o700)
    kind, sentence = ask_as_nobody(name, "read", made.pin)
    assert MapDenied.__name__ == kind
    assert_sentence(made.pin, sentence)


@pytest.mark.parametrize("name", READERS)
def test_a_pin_that_its_owner_may_only_read_is_enough_or_denied(name, make_map):
    # Kernels since 5.19 let whoever may read the pin read the map; older ones ask for a capability.
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    os.chown(made.pin, _NOBODY, _NOBODY)
    made.pin.chmod(0o400)
    assert ask_as_nobody(name, "read", made.pin)[0] in ("read", MapDenied.__name__)


@pytest.mark.parametrize("name", READERS)
def test_programs_are_denied_without_the_right_to_ask(name, bpf_mount):
    # bpftool puts this error into a list: [{"error": ...}].
    kind, sentence = ask_as_nobody(name, "programs", 1)
    assert MapDenied.__name__ == kind
    assert_sentence("program", sentence)


@pytest.mark.parametrize("name", ["libbpf", "bcc"])
def test_the_descriptor_of_a_reader_changes_nothing(name, readers, make_map):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 8)
    made.put(u64(1), *[u64(5)] * made.copies)
    reader = readers[READERS.index(name)]
    descriptor = reader._calls.open_pin(os.fsencode(made.pin))
    try:
        refused = [
            refused_with(lambda: put(descriptor, u64(1), bytes(8 * made.copies))),
            refused_with(lambda: put(descriptor, u64(2), bytes(8 * made.copies))),
            refused_with(lambda: delete(descriptor, u64(1))),
        ]
    finally:
        os.close(descriptor)
    assert [errno.EPERM] * 3 == refused
    assert [(u64(1), u64(5) * made.copies)] == list(reader.read(str(made.pin)).entries())


def refused_with(change) -> int | None:
    try:
        change()
    except OSError as error:
        return error.errno
    return None


def test_a_bpf_file_system_without_calicos_folder_is_called_mounted(bpf_mount, bpf_fs):
    with pytest.raises(MapMissing) as refusal:
        list_pins(bpf_fs / "tc" / "elsewhere")
    said = f"a BPF file system is mounted at {bpf_mount}, and nothing of Calico's is in it"
    assert f"{bpf_fs}/tc/elsewhere does not exist: {said}" == str(refusal.value)
