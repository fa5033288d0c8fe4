"""The plugin's flags: for kubectl, for the exporter's command, and for finding the exporter's pods.

The exporter's flags are repeated here because a laptop does not have the node's libraries; a test compares both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import DEFAULT_SELECTOR, Exporters
from exporter.quantities import Duration

VARIABLE_PREFIX = "KUBECTL_CALICO_BPF"

# Its names, and its settings for click.
_Flag = tuple[tuple[str, ...], dict[str, Any]]
_WITHOUT_VALUE = "(its own default)"
_MAX_SECONDS = 5.0
_MAX_DIGITS, _MAX_SHOWN = 5, 40
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
WITH_PORTS = ("tcp", "udp", "sctp")
_SERVICE = "svc/"


class KubectlFlag(click.Option):
    """A flag passed to every call of kubectl."""


class Time(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A duration, kept as typed; a flag whose duration is optional must not mistake the pod for it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType`."""
        try:
            return str(value) if value == _WITHOUT_VALUE else str(Duration().convert(value, param, ctx) and value)
        except click.BadParameter:
            flag = max(param.opts, key=len) if param else "the flag"
            self.fail(
                f"{value!r} is no time between 100ms and 24h; write {flag}=10s, or the pod before {flag}", param, ctx
            )


class Port(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A port with or without its protocol, as in 80/tcp."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """See `click.ParamType`."""
        number, slash, protocol = str(value).lower().partition("/")
        if (slash and protocol not in WITH_PORTS) or not _is_number(number, 65535):
            self.fail(f"{_shortened(value)} is no port such as 80 or 80/tcp", param, ctx)
        return int(number), protocol


class Protocol(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A protocol by its name or number; a number that has a name becomes it."""

    name = "protocol"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType`."""
        text = str(value).lower()
        if _is_number(text, 255):
            return _PROTOCOLS.get(int(text), str(int(text)))
        if text not in _PROTOCOLS.values():
            names = ", ".join(_PROTOCOLS.values())
            self.fail(f"{_shortened(value)} is none of {names}, nor a number up to 255", param, ctx)
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """See `click.ParamType`."""
        del ctx, param
        return [CompletionItem(name) for name in _PROTOCOLS.values() if name.startswith(incomplete)]


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) <= most


def _shortened(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


class ForwardedFlag(click.Option):
    """A flag that the exporter's command gets as it was typed; `optional_value` if its value is optional."""

    def __init__(self, names: Sequence[str], *, optional_value: bool = False, **more: Any) -> None:
        if optional_value:
            more |= {"is_flag": False, "flag_value": _WITHOUT_VALUE, "type": Time()}
        super().__init__(names, **more)


def words_of(context: click.Context, kind: type[click.Option]) -> list[str]:
    """The command-line words of the flags of this kind that the user gave."""
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        if not isinstance(option, kind) or context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        flag, value = max(option.opts, key=len), context.params.get(name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is True or one == _WITHOUT_VALUE:
                words.append(flag)
            elif one is not None and one is not False:
                words.append(f"{flag}={one}")
    return words


def kubectl_of(context: click.Context) -> Kubectl:
    """The kubectl with the flags that the user gave for it."""
    return Kubectl(tuple(words_of(context, KubectlFlag)))


def exporters_of(context: click.Context) -> Exporters:
    """How to find the exporter's pods, by the user's flags."""
    return Exporters(context.params["exporter_selector"], context.params["exporter_namespace"])


def complete_pods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of pods for a shell, in the given namespace or that of the context."""
    if context.params.get(parameter.name or ""):
        return []  # there is one already
    prefix, slash, start = incomplete.rpartition("/")
    namespace = prefix or context.params.get("namespace")
    names = _names(context, "get", "pods", *([f"--namespace={namespace}"] if namespace else []))
    return [CompletionItem(f"{prefix}{slash}{name}") for name in names if name.startswith(start)]


def complete_ends(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of pods, and of services after svc/."""
    if not incomplete.startswith(_SERVICE):
        offer = [CompletionItem(_SERVICE)] if incomplete and _SERVICE.startswith(incomplete) else []
        return [*complete_pods(context, parameter, incomplete), *offer]
    prefix, _, start = incomplete.removeprefix(_SERVICE).rpartition("/")
    namespace = prefix or context.params.get("namespace")
    names = _names(context, "get", "services", *([f"--namespace={namespace}"] if namespace else []))
    before = f"{_SERVICE}{prefix}/" if prefix else _SERVICE
    return [CompletionItem(f"{before}{name}") for name in names if name.startswith(start)]


def _completing(*words: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del parameter
        return [CompletionItem(name) for name in _names(context, *words) if name.startswith(incomplete)]

    return complete


def _names(context: click.Context, *words: str) -> list[str]:
    try:
        return Kubectl(tuple(words_of(context, KubectlFlag))).list_names(*words, wait=_MAX_SECONDS)
    except KubectlError:
        return []  # completion must not print errors


complete_nodes = _completing("get", "nodes")


def kubectl_flags(command: Any) -> Any:
    """Flags of kubectl for the cluster and the user, such as `--context`, and those for finding the exporter's pods."""
    return _with_flags(_with_flags(command, KubectlFlag, _KUBECTL), click.Option, _EXPORTER_PODS)


def forwarded_flags(command: str) -> Callable[[Any], Any]:
    """The flags of one of the exporter's commands."""
    return lambda function: _with_flags(function, ForwardedFlag, _FORWARDED[command])


def _with_flags(command: Any, kind: type[click.Option], flags: Sequence[_Flag]) -> Any:
    for names, more in reversed(flags):
        command = click.option(*names, cls=kind, **more)(command)
    return command


_NAMESPACES = _completing("get", "namespaces")
_EXPORTER_PODS: list[_Flag] = [
    (
        ("--namespace", "-n"),
        {
            "help": "The pod's namespace (default: your context's); for top, the endpoints' (default: all).",
            "shell_complete": _NAMESPACES,
        },
    ),
    (
        ("--exporter-namespace",),
        {
            "help": "Namespace of the exporter's pods (all namespaces if not given).",
            "envvar": f"{VARIABLE_PREFIX}_EXPORTER_NAMESPACE",
            "show_envvar": True,
            "shell_complete": _NAMESPACES,
        },
    ),
    (
        ("--exporter-selector",),
        {
            "help": "Label selector of the exporter's pods.",
            "default": DEFAULT_SELECTOR,
            "show_default": True,
            "envvar": f"{VARIABLE_PREFIX}_EXPORTER_SELECTOR",
            "show_envvar": True,
        },
    ),
]
_PATH = {"type": click.Path()}
_KUBECTL: list[_Flag] = [
    (("--context",), {"help": "The kubectl context.", "shell_complete": _completing("config", "get-contexts")}),
    (("--kubeconfig",), {"help": "The kubeconfig file.", "type": click.Path(dir_okay=False)}),
    (("--cluster",), {"help": "The cluster in the kubeconfig."}),
    (("--user",), {"help": "The user in the kubeconfig."}),
    (("--as", "as_user"), {"help": "User to impersonate."}),
    (("--as-group",), {"help": "Group to impersonate (can be repeated).", "multiple": True}),
    (("--as-uid",), {"help": "UID to impersonate."}),
    (("--server", "-s"), {"help": "The API server's address."}),
    (("--token",), {"help": "The bearer token for the API server."}),
    (("--certificate-authority",), {"help": "CA certificate of the API server.", **_PATH}),
    (("--client-certificate",), {"help": "Client certificate.", **_PATH}),
    (("--client-key",), {"help": "Client key.", **_PATH}),
    (("--tls-server-name",), {"help": "Server name to expect in the API server's certificate."}),
    (("--insecure-skip-tls-verify",), {"help": "Skip TLS verification.", "is_flag": True}),
    (("--request-timeout",), {"help": "Timeout of a single request."}),
    (("--cache-dir",), {"help": "kubectl's cache directory.", **_PATH}),
]

_TABLE_OR_JSON = (("--output", "-o"), {"help": "Output format.", "type": click.Choice(["table", "json"])})
_TEXT_OR_JSON = (("--output", "-o"), {"help": "Output format.", "type": click.Choice(["text", "json"])})

_FORWARDED: dict[str, list[_Flag]] = {
    "counters": [
        (("--nonzero",), {"help": "Hide zero rows.", "is_flag": True}),
        _TABLE_OR_JSON,
        (
            ("--diff",),
            {"help": "Show only what is counted within this time (10s if not given).", "optional_value": True},
        ),
        (
            ("--watch",),
            {"help": "Show counts and rates, refreshed at this interval (2s if not given).", "optional_value": True},
        ),
        (("--top",), {"help": "Show the top N endpoints by drops (with --node).", "type": click.IntRange(1)}),
    ],
    "policy": [
        (("--direction",), {"help": "Traffic direction.", "type": click.Choice(["inbound", "outbound", "all"])}),
        (("--family",), {"help": "IP family.", "type": click.Choice(["4", "6", "all"])}),
        (("--nonzero",), {"help": "Hide rules without hits.", "is_flag": True}),
        (("--ip-sets",), {"help": "List the members of the rules' IP sets.", "is_flag": True}),
        (("--instructions",), {"help": "Also show the programs' instructions.", "is_flag": True}),
        _TABLE_OR_JSON,
    ],
    "why": [
        (("--for",), {"help": "How long to watch, 30s if not given; Ctrl-C ends it sooner.", "type": Time()}),
        (("--packets",), {"help": "Also capture the pod's packets, and show whose were denied.", "is_flag": True}),
        _TEXT_OR_JSON,
    ],
    "conntrack": [
        (("--top",), {"help": "Show the top N endpoints and peers by entries.", "type": click.IntRange(1)}),
        _TABLE_OR_JSON,
    ],
    "check": [_TEXT_OR_JSON],
    "trace": [
        (("--source-port",), {"help": "Source port (default: 40000).", "type": click.IntRange(0, 65535)}),
        (("--icmp-type",), {"help": "ICMP type (default: echo request).", "type": click.IntRange(0, 255)}),
        (("--icmp-code",), {"help": "ICMP code (default: 0).", "type": click.IntRange(0, 255)}),
        (("--via",), {"help": "Host interface that the packet takes on each node, where it is not known."}),
        (("--verbose",), {"help": "Also show the rules that did not match, and why.", "is_flag": True}),
    ],
}
