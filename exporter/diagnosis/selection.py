"""Finds the pod that a person names among the endpoints of a node. Errors are one sentence."""

from collections.abc import Sequence

from exporter.errors import ExporterError
from exporter.node.endpoints import Endpoint


class WrongUsage(ExporterError):
    """What the user gave does not make sense. The message is one sentence."""


class NotHere(ExporterError):
    """What the user names is not on this node. The message is one sentence."""


def pod_named(every: Sequence[Endpoint], wanted: str, option: str, instead: str = "--ip or --interface") -> Endpoint:
    """The pod `wanted`, [NAMESPACE/]NAME, among these endpoints.

    `option` is how the user gave it, `instead` how else an endpoint is named. Raises `WrongUsage` or `NotHere`.
    """
    namespace, slash, pod = wanted.rpartition("/")
    if not pod or "/" in namespace or (slash and not namespace):
        raise WrongUsage(f"{option} {wanted} is not [NAMESPACE/]NAME")
    found = [one for one in every if one.pod == pod and (not slash or one.namespace == namespace)]
    if len(found) > 1:
        names = ", ".join(sorted(f"{one.title} ({one.interface})" for one in found))
        raise WrongUsage(f"{option} {wanted} fits several: {names}; add the namespace, or use {instead}")
    if not found:
        named = any(one.pod for one in every)
        hint = "is it on another node?" if named else f"no pod names are known here; use {instead}"
        raise NotHere(f"no pod {wanted} on this node: {hint}")
    return found[0]
