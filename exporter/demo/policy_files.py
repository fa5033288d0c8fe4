"""Calico's policy debug files for a pod of the demo, as v3.32 writes them: its policy as commented BPF instructions.

Pure: a pod in, file names and JSON text out. Every comment, label and instruction stands where recorded files have it:
the id of a rule in a comment and in its code, that of a tier's end in the code alone. The demo runs another program:
nothing loads this one.
"""

import base64
import hashlib
import json
from typing import Any

from exporter.demo import bpf_code as bpf
from exporter.demo.bpf_code import Program
from exporter.demo.plan import Pod
from exporter.demo.policy_rules import (
    DIRECTIONS,
    INGRESS,
    PROTOCOLS,
    PolicyPath,
    Rule,
    Step,
    ip_set_id,
    ip_set_name,
    selector,
)

_VERSIONS = (4, 6)


def policy_files(pod: Pod) -> dict[str, str]:
    """File name to JSON text: one file for each direction and IP version."""
    return {
        f"{pod.interface}_{direction}_v{version}.json": _document(pod, direction, version)
        for direction in DIRECTIONS
        for version in _VERSIONS
    }


def _document(pod: Pod, direction: str, version: int) -> str:
    # The file is named by the direction of its policy, the hook by that of the host: traffic to a pod is egress there.
    hook = "tc egress" if direction == INGRESS else "tc ingress"
    code = _Writer(version).write(pod.policy_path(direction))
    return json.dumps(
        {"ifacename": pod.interface, "hook": hook, "policyInfo": code, "error": ""}, separators=(",", ":")
    )


class _Writer:
    """Writes one program for one IP version; rules and policies are numbered through the whole of it."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._program = Program()
        self._rule = 0
        self._policy = 0

    def write(self, path: PolicyPath) -> list[dict[str, Any]]:
        """The instructions of the whole path."""
        program = self._program
        bpf.write_header(program)
        for number, tier in enumerate(path.tiers):
            program.comment(f"Start of tier {tier.name}")
            for policy in tier.policies:
                title = f"{policy.kind} {policy.name} {self._policy}"
                self._policy += 1
                program.comment(f"Start of {title}")
                for step in policy.rules:
                    self._write_rule(step, policy.name, number)
                program.comment(f"End of {title}")
            program.comment(f"End of tier {tier.name}: {tier.end.rule.action}")
            self._write_code(tier.end, number)
            program.label(f"end_of_tier_{number}")
        for step in path.profile_rules:
            self._write_rule(step, path.profile, 0)
        self._write_code(path.no_match, 0)
        bpf.write_footer(program)
        return program.finish()

    def _write_rule(self, step: Step, owner: str, tier: int) -> None:
        program, rule, mark = self._program, step.rule, _rule_id(step.prefix)
        program.comment(f'Start of rule {owner} {_rule_text(rule)}  rule_id:"{mark}"')
        if rule.app:
            program.comment(f"IPSets src_ip_set_ids:<0x{ip_set_id(rule.app):x}> ")
        program.comment(f"Rule MatchID: {step.id}")
        # A rule of the other IP version leaves its comments behind and no code.
        if rule.version in (0, self._version):
            self._write_code(step, tier)
        program.comment(f"End of rule {owner} {mark}")

    def _write_code(self, step: Step, tier: int) -> None:
        program, rule, here = self._program, step.rule, f"rule_{self._rule}"
        no_match = f"{here}_no_match"
        self._rule += 1
        if rule.protocol != "any":
            program.comment(f"If protocol != {rule.protocol}, skip to next rule")
            bpf.write_protocol_match(program, PROTOCOLS[rule.protocol], no_match)
        if rule.app:
            number, name = ip_set_id(rule.app), ip_set_name(rule.app)
            program.comment(f"If source doesn't match ipset {name} (0x{number:x}), skip to next rule")
            bpf.write_source_match(program, number, self._version, no_match)
        if rule.port:
            bpf.write_port_match(program, rule.port, f"{here}_part_0", no_match)
        target = f"end_of_tier_{tier}" if rule.action == "pass" else rule.action
        bpf.write_hit(program, step.id, target)
        program.label(no_match)


def _rule_text(rule: Rule) -> str:
    words = [f'action:"{"next-tier" if rule.action == "pass" else rule.action}"']
    if rule.version:
        words.append(f"ip_version:IPV{rule.version}")
    if rule.protocol != "any":
        words.append(f'protocol:{{name:"{rule.protocol}"}}')
    if rule.port:
        words.append(f"dst_ports:{{first:{rule.port}  last:{rule.port}}}")
    if rule.app:
        words.append(f'src_ip_set_ids:"{ip_set_name(rule.app)}"')
        words.append(f'original_src_selector:"{selector(rule.app)}"')
        words.append('original_src_namespace_selector:"all()"')
    return "  ".join(words)


def _rule_id(prefix: str) -> str:
    # Like Felix's: 16 characters that only have to differ from rule to rule, and stay.
    return base64.urlsafe_b64encode(hashlib.sha224(prefix.encode()).digest()).decode()[:16]
