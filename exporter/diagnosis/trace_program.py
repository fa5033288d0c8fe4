"""What one policy program of the node says about a packet, with everything that makes its answer uncertain.

Pure functions of a snapshot. `trace.py` decides which programs a packet meets, `policy_run.py` runs one.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exporter.calico.failsafes import Failsafes
from exporter.calico.hooks import XDP, hook_name
from exporter.calico.packet import NEIGHBOUR_DISCOVERY, WIREGUARD_PORT, Packet
from exporter.calico.policy_debug import NORMAL, UNTRACKED, PolicyFileName
from exporter.calico.policy_debug import WORKLOAD as WORKLOAD_PHASE
from exporter.calico.policy_file import PolicyDebugError
from exporter.calico.policy_machine import MAX_STEPS
from exporter.calico.policy_program import ALLOW, DENY, NotKnown
from exporter.calico.protocols import UDP
from exporter.diagnosis.policy_run import LoadedFile, PolicyRun, Step, load_file, run_policy
from exporter.diagnosis.trace_node import Hidden
from exporter.errors import ExporterError
from exporter.node.endpoints import HOST, WORKLOAD, Endpoint
from exporter.snapshot.rules import DIRECTIONS, RuleOwners, hook_of
from exporter.snapshot.snapshot import Snapshot

UNKNOWN = "unknown"
XDP_FILE = "xdp"
_NODES_OWN = "whether an address is the node's own, which is not known here"
_TUNNEL_PORTS = (4789, WIREGUARD_PORT)  # 4789: VXLAN, by Felix's default


@dataclass(frozen=True, slots=True)
class ProgramTrace:
    """What one policy program says: `allow`, `deny` or `unknown`. `why` is why it is not known, or allowed unasked.

    `checked` is whether the attached program is that of the file, None if that may not be asked. `conditional` says
    that the packet meets the program only if a thing that is not known is so.
    """

    endpoint: Endpoint
    hook: str
    direction: str
    family: int
    verdict: str
    why: str = ""
    run: PolicyRun | None = None
    checked: bool | None = None
    conditional: str = ""
    backend: str | None = None

    @property
    def denies(self) -> bool:
        """Whether the packet certainly meets it and is denied."""
        return self.verdict == DENY and not self.conditional

    @property
    def phase(self) -> str:
        """The part of the program that decided."""
        decided = self.decided_by
        if decided:
            return decided.phase
        if self.hook == hook_name(XDP):
            return UNTRACKED
        return WORKLOAD_PHASE if self.endpoint.kind == WORKLOAD else NORMAL

    @property
    def decided_by(self) -> Step | None:
        """The rule that decided, None where none did."""
        return self.run.decided_by if self.run and self.verdict != UNKNOWN else None


@dataclass(slots=True)
class Budget:
    """What one evaluation may cost: bytes of policy files, steps of a program, and time, until `is_over`."""

    file_bytes: int = sys.maxsize
    steps: int = MAX_STEPS
    is_over: Callable[[], bool] = lambda: False

    def spend(self, size: int) -> None:
        """Takes a file of this size from the budget. Raises `NotKnown`."""
        self.file_bytes -= size
        if self.file_bytes < 0 or self.is_over():
            raise NotKnown("its policy is more than what may be evaluated here: use the command")


class Files:
    """The policy files of a snapshot, each loaded once for all packets of a trace."""

    def __init__(self, snapshot: Snapshot, budget: Budget) -> None:
        self.budget = budget
        folder = snapshot.policy_files.get()
        self._contents, self._unread, self._problems = folder.files, folder.unread, folder.problems
        self._names = snapshot.policy_file_names.or_else(())  # of all, where only some were read
        self._loaded: dict[str, LoadedFile] = {}

    def __bool__(self) -> bool:
        return bool(self._contents or self._names or self._unread)

    def __contains__(self, name: PolicyFileName) -> bool:
        return name.text in self._contents or name.text in self._unread

    def load(self, name: PolicyFileName) -> LoadedFile:
        """The file of this name. Raises `NotKnown` or `PolicyDebugError`."""
        path = name.text
        content = self._contents.get(path)
        if path in self._unread:
            raise NotKnown("; ".join(["its policy file could not be read", *self._problems[:1]]))
        if content is None:
            raise NotKnown("Calico has written no policy file for it")
        if path not in self._loaded:
            self.budget.spend(len(content))
            self._loaded[path] = load_file(name, content)
        return self._loaded[path]


class Programs:
    """The policy programs of a snapshot, to be asked about one packet."""

    def __init__(self, snapshot: Snapshot, packet: Packet, files: Files) -> None:
        self.snapshot = snapshot
        self.packet = packet
        self._files = files

    @property
    def any_file(self) -> bool:
        """Whether Calico writes policy files at all."""
        return bool(self._files)

    @property
    def failsafes(self) -> Failsafes | None:
        """The node's failsafe ports, None if they are not known."""
        return self.snapshot.failsafes(self.packet.family).or_else(None)

    def has_file(self, endpoint: Endpoint, way: str) -> bool:
        """Whether Calico has written a file for this direction of policy, or for XDP."""
        return self._file_name(endpoint, way) in self._files

    def unasked(self, endpoint: Endpoint, way: str, why: str, verdict: str = ALLOW) -> ProgramTrace:
        """The program has no say: something else decides before it."""
        return replace(self._blank(endpoint, way), verdict=verdict, why=why)

    def evaluate(self, endpoint: Endpoint, way: str, flags: Sequence[int], hidden: Hidden) -> ProgramTrace:
        """What the program says. `flags` are all that are possible, `hidden` what is not known there."""
        packet = self.packet
        if packet.family == 6 and packet.is_icmp and packet.icmp_type in NEIGHBOUR_DISCOVERY and way != XDP_FILE:
            why = "policy is not asked about IPv6 neighbour and multicast listener discovery"
            return self.unasked(endpoint, way, why)
        program = self._blank(endpoint, way)
        try:
            return self._run(program, way, flags, hidden.fields)
        except (NotKnown, PolicyDebugError) as error:
            asked = any(f"state->{name}" in str(error) for name in hidden.fields)
            return replace(program, why=f"{endpoint.title}, {program.direction}: {hidden.why if asked else error}")

    def _file_name(self, endpoint: Endpoint, way: str) -> PolicyFileName:
        return PolicyFileName(endpoint.interface, way, self.packet.family)

    def _blank(self, endpoint: Endpoint, way: str) -> ProgramTrace:
        hook = hook_name(hook_of(way, workload=endpoint.kind == WORKLOAD))
        return ProgramTrace(endpoint, hook, DIRECTIONS[way], self.packet.family, UNKNOWN)

    def _run(self, program: ProgramTrace, way: str, flags: Sequence[int], hidden: Sequence[str]) -> ProgramTrace:
        file = self._files.load(self._file_name(program.endpoint, way))
        checked = self._checked(program.endpoint, way, file.is_program)
        if checked is False:
            raise NotKnown("the file is not the program in the kernel: Calico is replacing it, or could not load it")
        seen = self.packet.seen
        every = [packet.state(one) for packet in seen for one in flags]
        states = [{name: value for name, value in state.items() if name not in hidden} for state in every]
        owners = RuleOwners([program.endpoint], (), [file.parsed])
        hits, max_steps = self.snapshot.rule_hits.or_else(None), self._files.budget.steps
        doubt = _NODES_OWN if len(seen) == 1 else f"how Calico's release reads protocol {seen[-1].protocol} from IPv6"
        run = run_policy(file, states, doubt, self._is_member, owners, hits, max_steps)
        if run.verdict == DENY and program.endpoint.kind == HOST and self._may_be_tunnel():
            raise NotKnown("the packets of tunnels between Calico's nodes pass before policy, and this may be one")
        return replace(program, verdict=DENY if run.verdict == DENY else ALLOW, run=run, checked=checked)

    def _may_be_tunnel(self) -> bool:
        return self.packet.protocol == UDP and self.packet.destination_port in _TUNNEL_PORTS

    def _checked(self, endpoint: Endpoint, way: str, is_program: Callable[[Sequence[str]], bool]) -> bool | None:
        hook = hook_of(way, workload=endpoint.kind == WORKLOAD)
        tags = self.snapshot.policy_tags.or_else({}).get((endpoint.ifindex, hook, self.packet.family))
        return None if tags is None or (tags and not all(tags)) else is_program(tags)

    def _is_member(self, key: bytes) -> bool:
        try:
            return key in self.snapshot.ip_set_trie(self.packet.family).get()
        except ExporterError as error:
            raise NotKnown(f"the members of IP sets are not known: {error}") from error
