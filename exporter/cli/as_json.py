"""What several commands show of endpoints, rules and denied flows, as JSON."""

from exporter.calico.tables import address_port
from exporter.diagnosis.denied import DeniedFlows, Ruling
from exporter.diagnosis.policy_run import Step
from exporter.node.endpoints import Endpoint


def endpoint_json(endpoint: Endpoint) -> dict[str, object]:
    """The endpoint and its interface."""
    names = ("interface", "ifindex", "kind", "namespace", "pod")
    return {name: getattr(endpoint, name) for name in names}


def endpoint_names(endpoint: Endpoint) -> dict[str, object]:
    """The names of an endpoint."""
    return {"interface": endpoint.interface, "namespace": endpoint.namespace, "pod": endpoint.pod}


def step_json(step: Step) -> dict[str, object]:
    """A rule that was evaluated."""
    names = ("kind", "policy_namespace", "policy", "tier", "rule", "action", "match", "hits")
    return {name: getattr(step, name) for name in names}


def ruling_json(ruling: Ruling) -> dict[str, object]:
    """The rule that denied."""
    return {
        "decided_by": step_json(ruling.step) if ruling.step else None,
        "rule_ids": [str(one) for one in ruling.rule_ids],
        "program_checked": ruling.checked,
        "why_unknown": ruling.why_unknown,
    }


def denied_json(one: DeniedFlows) -> dict[str, object]:
    """A denied flow; `age` is seconds since its last packet, null if unknown.

    Only where its rule was asked for, `decided_by` is that rule as in `trace`, null if `why_unknown` says why.
    """
    return {
        "receiver": endpoint_names(one.receiver),
        "peer": one.peer,
        "peer_pod": one.sender.title if one.sender else None,
        "destination": one.destination,
        "ip_family": one.family,
        "protocol": one.protocol,
        "port": one.port,
        "service": address_port(one.service.address, one.service.port) if one.service else None,
        "flows": one.flows,
        "packets": one.packets,
        "age": one.age,
        **(ruling_json(one.ruling) if one.ruling else {}),
    }
