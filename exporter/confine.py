"""Drops the privileges that reading counters does not need, for good: neither this process nor a child regains them.

Knows capset(2), prctl(2), the commands of bpf(2) by number (include/uapi/linux/bpf.h) and six functions of libseccomp.
Call it before the first thread starts: capabilities are per thread.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from exporter import privileges
from exporter.errors import ExporterError

# The id of a user and a group that no pod can have: Kubernetes and container runtimes end at 2^31 - 1. Processes of one
# user may signal each other, and share its limits: the kernel counts watches of epoll by user.
USER = 2**31 + 10042
# Capabilities that reading needs. SYS_ADMIN is for kernels without CAP_BPF, and to get the maps that a program uses.
KEPT = (privileges.DAC_READ_SEARCH, privileges.SYS_ADMIN, privileges.BPF)
# Lookup, next key, open a pin, a program's descriptor by its id, shape of an object, lookup of a batch.
READING = frozenset({1, 4, 7, 13, 15, 24})
# bpftool also gets the next program's id, and a map's BTF by its id.
READING_BY_BPFTOOL = READING | {11, 19}

_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 8, 38
_CAPABILITY_VERSION = 0x20080522
_SECCOMP = "libseccomp.so.2"
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_TSYNC = 4  # SCMP_FLTATR_CTL_TSYNC: all threads of the process
_EQUAL, _GREATER = 4, 6


class ConfinementError(ExporterError):
    """A privilege could not be dropped. The message is one sentence."""


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp of libseccomp: an argument of a system call, all 64 bits of it, compared with a number."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def confine(*, bpftool: bool) -> list[ConfinementError]:
    """Drops each privilege that reading does not need; returns an error for each that could not be dropped.

    The user and the group become `USER`, who does not own the pins, so the kernel opens none of them for writing; of
    the capabilities only `KEPT` remain; no child process regains any; and bpf(2) allows only the commands that read,
    all others fail with EPERM. `bpftool` opens pins for writing although it only reads, and starts with the
    capabilities of its user, so with `bpftool` the user stays, and only the groups change.
    """
    steps: list[Callable[[], None]] = [
        _drop_capabilities,
        _forbid_new_privileges,
        partial(_refuse_writes, bpftool=bpftool),
    ]
    if os.geteuid() == 0:
        steps[:0] = [_drop_groups] if bpftool else [_drop_groups, _drop_root]
    errors = []
    for step in steps:
        try:
            step()
        except ConfinementError as error:
            errors.append(error)
    return errors


def _drop_groups() -> None:
    # Before the user: root's group may write files and reach sockets that others may not.
    with _explained("leave the groups of root"):
        os.setgroups([])
        os.setresgid(USER, USER, USER)


def _drop_root() -> None:
    with _explained("become another user than root"):
        _libc("prctl", ctypes.c_int(_PR_SET_KEEPCAPS), *[ctypes.c_ulong(number) for number in (1, 0, 0, 0)])
        os.setresuid(USER, USER, USER)


def _drop_capabilities() -> None:
    kept = sum(1 << number for number in KEPT) & privileges.permitted()
    # Version and process 0, this thread; then effective, permitted, inheritable of the lower and the upper 32 bits.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    with _explained("give up capabilities"):
        _libc("capset", header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0))


def _forbid_new_privileges() -> None:
    with _explained("give up new privileges"):
        _libc("prctl", ctypes.c_int(_PR_SET_NO_NEW_PRIVS), *[ctypes.c_ulong(number) for number in (1, 0, 0, 0)])


def _refuse_writes(*, bpftool: bool) -> None:
    # By soname, never by ctypes.util.find_library: that needs ldconfig or a compiler, which small images do not have.
    try:
        library = ctypes.CDLL(_SECCOMP)
    except OSError as error:
        raise ConfinementError(
            f"{_SECCOMP} is not installed (package libseccomp2), so bpf(2) is left as it is"
        ) from error
    allowed = READING_BY_BPFTOOL if bpftool else READING
    library.seccomp_init.restype = ctypes.c_void_p
    program = ctypes.c_void_p(library.seccomp_init(_ALLOW))
    try:
        bpf = library.seccomp_syscall_resolve_name(b"bpf")
        _check(library.seccomp_attr_set(program, _TSYNC, 1))
        # The kernel uses 32 bits of the command and the filter sees 64: a larger number must not bypass it.
        refused = [(_EQUAL, number) for number in range(max(allowed)) if number not in allowed]
        for operation, number in [*refused, (_GREATER, max(allowed))]:
            rule = _Compare(0, operation, number, 0)
            _check(library.seccomp_rule_add_array(program, _REFUSE, bpf, 1, ctypes.byref(rule)))
        _check(library.seccomp_load(program))
    finally:
        library.seccomp_release(program)
    privileges.installed_filters += 1


def _check(result: int) -> None:
    """The functions of libseccomp return 0 or an errno with its sign changed."""
    if result:
        raise ConfinementError(f"could not refuse the commands of bpf(2) that write: {os.strerror(-result)}")


def _libc(function: str, *arguments: object) -> None:
    if ctypes.CDLL(None, use_errno=True)[function](*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfinementError(f"could not {what}: {error.strerror}") from error
