"""Sources of a snapshot's raw data: the running node, or a bundle.

Both implement `NodeSource`; `LiveNode` reads the kernel and Calico's run directory. Raw means names, dumps and file
contents, nothing decoded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from exporter.bpf.maps import MapDump, MapInfo, ProgramInfo, Reader
from exporter.bpf.pins import list_pins, list_subdirectories
from exporter.calico import endpoint_status, pins, policy_debug
from exporter.node import netlink
from exporter.node.files import Folder, list_folder, read_folder
from exporter.node.live_links import LiveLinks
from exporter.node.nic import Nic, read_nics
from exporter.node.pods import ClusterPods, PodSource
from exporter.node.policies import Policies, read_policies


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

    def map_dump(self, name: str, *, add_cpus: bool = False) -> MapDump:
        """Info and content of the map pinned as `name`; `add_cpus` sums values over CPUs."""

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """The loaded programs with these ids."""

    def links(self) -> tuple[netlink.Link, ...]:
        """The links of the node."""

    def host_routes(self) -> tuple[netlink.HostRoute, ...]:
        """The node's routes to single addresses."""

    def nics(self) -> dict[str, Nic]:
        """The kernel's interface counters by name."""

    def endpoint_status(self) -> Folder[bytes]:
        """Calico's endpoint-status files."""

    def cluster_pods(self) -> ClusterPods | None:
        """The node's pods from the API server, None if it is not used. Never blocks."""

    def policy_files(self) -> Folder[bytes]:
        """The content of Calico's policy debug files; large, used for bundles."""

    def policies(self) -> Policies:
        """The parsed policy debug files; the same `files` object as in the last call if nothing changed."""

    def policy_file_names(self) -> list[str]:
        """The names of the policy debug files; cheap, used for scrapes. Empty if Calico writes none."""


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
        self._status: Folder[bytes] | None = None
        self._policies: Policies | None = None
        self._reader = reader
        self._tc = bpf_fs / "tc"
        self._globals = bpf_fs / pins.GLOBALS
        self._run_dir = run_dir

    def pin_names(self) -> list[str]:
        """See `NodeSource`."""
        return list_pins(self._globals)

    def attach_point_folders(self) -> list[str]:
        """See `NodeSource`."""
        folders = filter(pins.is_attach_point_folder, list_subdirectories(self._tc))
        return [folder for folder in folders if any(map(pins.is_attach_point_counters, list_pins(self._tc / folder)))]

    def map_info(self, name: str) -> MapInfo:
        """See `NodeSource`."""
        return self._reader.info(str(self._globals / name))

    def map_dump(self, name: str, *, add_cpus: bool = False) -> MapDump:
        """See `NodeSource`."""
        return self._reader.read(str(self._globals / name), add_cpus=add_cpus)

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """See `NodeSource`."""
        return self._reader.programs(ids)

    def links(self) -> tuple[netlink.Link, ...]:
        """See `NodeSource`."""
        return self._live_links.links() if self._live_links else netlink.read_links()

    def host_routes(self) -> tuple[netlink.HostRoute, ...]:
        """See `NodeSource`."""
        return self._live_links.host_routes() if self._live_links else netlink.read_host_routes()

    def nics(self) -> dict[str, Nic]:
        """See `NodeSource`."""
        return read_nics()

    def endpoint_status(self) -> Folder[bytes]:
        """See `NodeSource`."""
        folder = self._run_dir / endpoint_status.FOLDER
        self._status = read_folder(folder, endpoint_status.MAX_BYTES, self._status)
        return self._status

    def cluster_pods(self) -> ClusterPods | None:
        """See `NodeSource`; in one-shot commands it blocks for the pod list."""
        return self._pods.pods() if self._pods else None

    def policy_files(self) -> Folder[bytes]:
        """See `NodeSource`."""
        return read_folder(self._run_dir / policy_debug.FOLDER)

    def policies(self) -> Policies:
        """See `NodeSource`."""
        self._policies = read_policies(self._run_dir / policy_debug.FOLDER, self._policies)
        return self._policies

    def policy_file_names(self) -> list[str]:
        """See `NodeSource`."""
        return list_folder(self._run_dir / policy_debug.FOLDER) or []
