"""Sources of a snapshot's raw data: the running node, or a bundle.

Both implement `NodeSource`; `LiveNode` reads the kernel and Calico's run directory. Raw means names, dumps and file
contents, nothing decoded.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from exporter.bpf.accounting import MapUsage
from exporter.bpf.maps import MapDump, MapInfo, ProgramInfo, Reader, ShapeCheck, unchecked
from exporter.bpf.pins import list_pins, list_subdirectories
from exporter.calico import endpoint_status, pins, policy_debug
from exporter.folder_watch import FolderWatch
from exporter.node import netlink
from exporter.node.files import Folder, check_run_dir, list_folder, read_folder
from exporter.node.live_links import LiveLinks
from exporter.node.nic import Nic, read_nics, read_received
from exporter.node.pods import ClusterPods, PodSource
from exporter.node.policies import Policies, read_policies
from exporter.node.read_thread import ReadThread

if TYPE_CHECKING:
    from exporter.snapshot.recorded_packets import RecordedPackets

_FOLDERS = (endpoint_status.FOLDER, policy_debug.FOLDER)  # of Calico's run directory

_Content = TypeVar("_Content", bound=Folder[Any])


def is_policy_file_of(name: str, interfaces: Collection[str] | None) -> bool:
    """Whether the policy debug file of this name is of one of the interfaces (None: of any)."""
    about = policy_debug.parse_file_name(name)
    return interfaces is None or (about is not None and about.interface in interfaces)


class NodeSource(Protocol):
    """The raw data of one node. Methods return complete data or raise `MapError` or `NodeError`."""

    @property
    def reader_name(self) -> str:
        """The reader behind the maps: `libbpf`, `bcc`, `bpftool` or `bundle`."""

    def pin_names(self) -> list[str]:
        """The names pinned under `<bpffs>/tc/globals`."""

    def attach_point_folders(self) -> list[str]:
        """Sibling directories in which releases before v3.26 pinned counter maps."""

    def map_info(self, name: str) -> MapInfo:
        """The info of the map pinned as `name`."""

    def map_usage(self, name: str) -> MapUsage:
        """The shape of the map pinned as `name`, and the memory that tells its entries."""

    def map_dump(self, name: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        """Info and content of the map pinned as `name`; `sum_cpus` sums values over CPUs. What `check` raises about its
        shape ends the read.
        """

    def map_values(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys in the map pinned as `name`, None where there is no entry."""

    def map_batches(self, name: str) -> Iterator[MapDump]:
        """The content of the large map pinned as `name`, in batches; of a bundle, what it holds of it."""

    def predates(self, datum: str) -> bool:
        """Whether this is a bundle made before this datum was part of one."""

    def clock_ns(self) -> int | None:
        """The kernel's monotonic clock, by which Calico's programs note times, when the maps were read."""

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """The loaded programs with these ids."""

    def links(self) -> tuple[netlink.Link, ...]:
        """The links of the node."""

    def host_routes(self) -> tuple[netlink.HostRoute, ...]:
        """The node's routes to single addresses."""

    def addresses(self) -> tuple[netlink.NodeAddress, ...]:
        """The node's own addresses."""

    def interfaces_to(self, addresses: Collection[str]) -> Mapping[str, int]:
        """The index of the interface by which the node sends to each of these addresses, where a route leads there."""

    def nics(self) -> dict[str, Nic]:
        """The kernel's interface counters by name."""

    def received(self) -> Mapping[str, tuple[int, int]]:
        """The packets and bytes that each interface received, by name; cheap, used for scrapes."""

    def queue_drops(self) -> dict[int, int]:
        """The packets that each interface's clsact queueing discipline dropped, by interface index."""

    def check_run_dir(self) -> None:
        """Raises `NodeError` if Calico's run directory is not there, or is empty."""

    def endpoint_status(self) -> Folder[bytes]:
        """Calico's endpoint-status files."""

    def cluster_pods(self) -> ClusterPods | None:
        """The node's pods from the API server, None if it is not used. Never blocks."""

    def packets(self) -> "RecordedPackets | None":
        """The packets that a bundle was made with, None if it was made without, or is a running node."""

    def policy_files(self, interfaces: Collection[str] | None = None) -> Folder[bytes]:
        """The content of Calico's policy debug files, those of all interfaces or of these; all together are large."""

    def policies(self) -> Policies:
        """The parsed policy debug files; the same `files` object as in the last call if nothing changed."""

    def policy_file_names(self) -> list[str]:
        """The names of the policy debug files; cheap, used for scrapes. Empty if Calico writes none."""


class _KeptFolder(Generic[_Content]):
    """A folder's content as `read` returns it, from the path and the content before; kept until the folder changes.

    Each has a thread of its own, so that a folder that hangs takes only its own facts with it.
    """

    def __init__(self, path: Path, read: Callable[[Path, _Content | None], _Content]) -> None:
        self.path = path
        self.thread = ReadThread(path)
        self._watch = FolderWatch(path)
        self._read = read
        self._content: _Content | None = None
        self._reusable = False
        self._names: list[str] | None = None

    @property
    def is_there(self) -> bool:
        """Whether the folder was there and could be read when its content was last asked for."""
        return self._reusable  # what can be used again is there

    def content(self) -> _Content:
        """The content now. Raises `NodeError` when it cannot be read."""
        return self.thread.read(self._now)

    def names(self) -> list[str]:
        """The names of its files now, none if it is not there. Raises `NodeError` when it cannot be listed."""
        return self.thread.read(self._names_now)

    def _now(self) -> _Content:
        self._forget_if_changed()
        if self._content is None or not self._reusable:
            self._content = self._read(self.path, self._content)
            self._reusable = self._content.reusable
        return self._content

    def _names_now(self) -> list[str]:
        self._forget_if_changed()
        if self._names is None:
            self._names = list_folder(self.path) or []
        return self._names

    def _forget_if_changed(self) -> None:
        # A change is told only once, to whoever asks first, and what is then read may fail.
        if not self._watch.unchanged():
            self._reusable, self._names = False, None


class LiveNode:
    """The `NodeSource` of the local node. Reads links and routes on each call unless `live_links` is given.

    Without `pods` it does not use the API server.
    """

    def __init__(
        self,
        reader: Reader,
        bpf_fs: Path,
        run_dir: Path,
        live_links: LiveLinks | None = None,
        pods: PodSource | None = None,
    ) -> None:
        self.reader_name = reader.name
        self._live_links = live_links
        self._pods = pods
        self._reader = reader
        self._tc = bpf_fs / "tc"
        self._globals = bpf_fs / pins.GLOBALS
        self._run_dir = run_dir
        status, policies = (run_dir / one for one in _FOLDERS)
        read_status = partial(read_folder, max_bytes=endpoint_status.MAX_BYTES)
        self._status: _KeptFolder[Folder[bytes]] = _KeptFolder(status, read_status)
        self._policies = _KeptFolder(policies, read_policies)

    def pin_names(self) -> list[str]:
        return list_pins(self._globals)

    def attach_point_folders(self) -> list[str]:
        folders = filter(pins.is_attach_point_folder, list_subdirectories(self._tc))
        return [folder for folder in folders if any(map(pins.is_attach_point_counters, list_pins(self._tc / folder)))]

    def map_info(self, name: str) -> MapInfo:
        return self._reader.info(f"{self._globals}/{name}")

    def map_usage(self, name: str) -> MapUsage:
        return self._reader.usage(f"{self._globals}/{name}")

    def map_dump(self, name: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        return self._reader.read(f"{self._globals}/{name}", sum_cpus=sum_cpus, check=check)

    def map_values(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._reader.lookup(f"{self._globals}/{name}", keys)

    def map_batches(self, name: str) -> Iterator[MapDump]:
        return self._reader.batches(f"{self._globals}/{name}")

    def predates(self, datum: str) -> bool:
        del datum
        return False

    def clock_ns(self) -> int | None:
        return time.monotonic_ns()

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        return self._reader.programs(ids)

    def links(self) -> tuple[netlink.Link, ...]:
        return self._live_links.links() if self._live_links else netlink.read_links()

    def host_routes(self) -> tuple[netlink.HostRoute, ...]:
        return self._live_links.host_routes() if self._live_links else netlink.read_host_routes()

    def addresses(self) -> tuple[netlink.NodeAddress, ...]:
        return netlink.read_addresses()

    def interfaces_to(self, addresses: Collection[str]) -> Mapping[str, int]:
        found = {address: netlink.read_interface_to(address) for address in addresses}
        return {address: ifindex for address, ifindex in found.items() if ifindex is not None}

    def nics(self) -> dict[str, Nic]:
        return read_nics()

    def received(self) -> Mapping[str, tuple[int, int]]:
        return read_received()

    def queue_drops(self) -> dict[int, int]:
        return netlink.read_queue_drops()

    def check_run_dir(self) -> None:
        if self._status.is_there:  # in the run directory, when it was read for the same snapshot
            return
        # Either thread will do, unless it waits for a folder that hangs.
        thread = self._policies.thread if self._status.thread.hangs else self._status.thread
        thread.read(lambda: check_run_dir(self._run_dir, _FOLDERS))

    def endpoint_status(self) -> Folder[bytes]:
        return self._status.content()

    def cluster_pods(self) -> ClusterPods | None:
        """See `NodeSource`; in one-shot commands it blocks for the pod list."""
        return self._pods.pods() if self._pods else None

    def packets(self) -> None:
        """See `NodeSource`."""

    def policy_files(self, interfaces: Collection[str] | None = None) -> Folder[bytes]:
        return self._policies.thread.read(
            lambda: read_folder(self._policies.path, wanted=lambda name: is_policy_file_of(name, interfaces))
        )

    def policies(self) -> Policies:
        return self._policies.content()

    def policy_file_names(self) -> list[str]:
        return self._policies.names()
