"""Policy debug files: each interface's policy program, as Felix documents it for debugging.

`<run dir>/bpf/policy/<interface>_<ingress|egress|xdp>_v<4|6>.json` holds the program's instructions with comments
(`bpf.PolicyDebugInfo`, `writePolicyDebugInfo` in felix/dataplane/linux/bpf_ep_mgr.go). These are the values that
`policy_comments.py` makes of one.
"""

import re
from dataclasses import dataclass

FOLDER = "bpf/policy"
# The phases of a program, which follow each other: what a host endpoint's policy is for, then the workload's.
UNTRACKED, PRE_DNAT, FORWARD, NORMAL, WORKLOAD = "untracked", "pre_dnat", "forward", "normal", "workload"
PROFILE = "Profile"

_FILE_NAME = re.compile(r"(?P<interface>.+)_(?P<direction>ingress|egress|xdp)_v(?P<family>[46])\.json", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PolicyFileName:
    """A parsed file name: the interface, the policy's direction `ingress`, `egress` or `xdp`, and IP family 4 or 6.

    Ingress policy is for traffic to the endpoint, whatever hook enforces it.
    """

    interface: str
    direction: str
    family: int

    @property
    def text(self) -> str:
        """The name itself, which `parse_file_name` parses."""
        return f"{self.interface}_{self.direction}_v{self.family}.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its position in its policy from 0, `allow`, `deny`, `pass` or `log`, its id, and its text from Felix.

    Profiles that have no name in the file (before v3.32) are one policy here, and the positions of a second one
    continue those of the first. `id` is the key of its counter, 0 without one. `ip_sets` are the comments with the
    numbers of its IP sets, and `named ports ipset NAME (0xNUMBER)` for those whose number is only in the code.
    """

    position: int
    action: str
    id: int
    text: str
    ip_sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy's rules of one direction. `kind` is empty where the file has none; `name` is as in the file.

    A profile has the kind `Profile`, and no name before v3.32. A staged policy leaves both empty.
    """

    kind: str
    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier's policies and its end; profiles are in a tier without a name.

    `end_action` is `deny` or `pass`, empty before v3.30; `end_id` is the key of the end's counter, 0 where the program
    has no code for it or it has no id. `before_workload` says that it comes before the instruction where the
    workload's policy begins: in a pod's file, it is then a host endpoint's. One with only unreachable code can be a
    host endpoint's without that: its comments are on that instruction. `host_phase` is where in the host endpoint's
    policy it then stands.
    """

    name: str
    policies: tuple[Policy, ...]
    end_action: str = ""
    end_id: int = 0
    before_workload: bool = False
    host_phase: str = PRE_DNAT

    def phase(self, *, workload: bool, xdp: bool) -> str:
        """Which packets it is for, in the program of a workload or of a host interface."""
        if xdp:
            return UNTRACKED
        return WORKLOAD if workload and not self.before_workload else self.host_phase


@dataclass(frozen=True, slots=True)
class PolicyProgram:
    """A parsed file. `hook` is as in the file (`tc egress`), `error` why the program could not be loaded.

    `counts_zero` says whether it has code that counts under id 0: from v3.30 on, for packets that no profile matched.
    """

    about: PolicyFileName
    hook: str
    error: str
    tiers: tuple[Tier, ...]
    counts_zero: bool = False


@dataclass(frozen=True, slots=True)
class RulePosition:
    """The rule that an instruction belongs to, by positions in `PolicyProgram.tiers`; -1 is what a tier's end lacks."""

    tier: int
    policy: int = -1
    rule: int = -1


def parse_file_name(name: str) -> PolicyFileName | None:
    """The parsed name of a policy debug file; None for another file."""
    match = _FILE_NAME.fullmatch(name)
    return PolicyFileName(match["interface"], match["direction"], int(match["family"])) if match else None
