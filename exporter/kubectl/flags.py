"""The plugin's flags: for kubectl, for the exporter's command, and for finding the exporter's pods.

The exporter's flags are repeated here because a laptop does not have the node's libraries; a test compares both.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import DEFAULT_SELECTOR, Exporters
from exporter.quantities import Duration

VARIABLE_PREFIX = "KUBECTL_CALICO_BPF"

_Decorator = Callable[[Any], Any]
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
            if value != _WITHOUT_VALUE:
                Duration().convert(value, param, ctx)
        except click.BadParameter:
            flag = max(param.opts, key=len) if param else "the flag"
            self.fail(
                f"{value!r} is no time between 100ms and 24h; write {flag}=10s, or the pod before {flag}", param, ctx
            )
        return str(value)


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
        self, _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.ParamType`."""
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
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
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
    return _with_flags(command, [*_EXPORTER_PODS, *_KUBECTL])


def forwarded_flags(command: str) -> _Decorator:
    """The flags of one of the exporter's commands."""
    return lambda function: _with_flags(function, _FORWARDED[command])


def _with_flags(command: Any, flags: Sequence[_Decorator]) -> Any:
    for flag in reversed(flags):
        command = flag(command)
    return command


_of_kubectl, _forwarded = partial(click.option, cls=KubectlFlag), partial(click.option, cls=ForwardedFlag)
_NAMESPACES = _completing("get", "namespaces")
_EXPORTER_PODS: list[_Decorator] = [
    click.option(
        "--namespace",
        "-n",
        help="The pod's namespace (default: your context's); for top, the endpoints' (default: all).",
        shell_complete=_NAMESPACES,
    ),
    click.option(
        "--exporter-namespace",
        help="Namespace of the exporter's pods (all namespaces if not given).",
        envvar=f"{VARIABLE_PREFIX}_EXPORTER_NAMESPACE",
        show_envvar=True,
        shell_complete=_NAMESPACES,
    ),
    click.option(
        "--exporter-selector",
        help="Label selector of the exporter's pods.",
        default=DEFAULT_SELECTOR,
        show_default=True,
        envvar=f"{VARIABLE_PREFIX}_EXPORTER_SELECTOR",
        show_envvar=True,
    ),
]
_KUBECTL: list[_Decorator] = [
    _of_kubectl("--context", help="The kubectl context.", shell_complete=_completing("config", "get-contexts")),
    _of_kubectl("--kubeconfig", help="The kubeconfig file.", type=click.Path(dir_okay=False)),
    _of_kubectl("--cluster", help="The cluster in the kubeconfig."),
    _of_kubectl("--user", help="The user in the kubeconfig."),
    _of_kubectl("--as", "as_user", help="User to impersonate."),
    _of_kubectl("--as-group", help="Group to impersonate (can be repeated).", multiple=True),
    _of_kubectl("--as-uid", help="UID to impersonate."),
    _of_kubectl("--server", "-s", help="The API server's address."),
    _of_kubectl("--token", help="The bearer token for the API server."),
    _of_kubectl("--certificate-authority", help="CA certificate of the API server.", type=click.Path()),
    _of_kubectl("--client-certificate", help="Client certificate.", type=click.Path()),
    _of_kubectl("--client-key", help="Client key.", type=click.Path()),
    _of_kubectl("--tls-server-name", help="Server name to expect in the API server's certificate."),
    _of_kubectl("--insecure-skip-tls-verify", help="Skip TLS verification.", is_flag=True),
    _of_kubectl("--request-timeout", help="Timeout of a single request."),
    _of_kubectl("--cache-dir", help="kubectl's cache directory.", type=click.Path()),
]
_TABLE_OR_JSON = _forwarded("--output", "-o", help="Output format.", type=click.Choice(["table", "json"]))
_TEXT_OR_JSON = _forwarded("--output", "-o", help="Output format.", type=click.Choice(["text", "json"]))
_FORWARDED: dict[str, list[_Decorator]] = {
    "counters": [
        _forwarded("--nonzero", help="Hide zero rows.", is_flag=True),
        _TABLE_OR_JSON,
        _forwarded(
            "--diff", help="Show only what is counted within this time (10s if not given).", optional_value=True
        ),
        _forwarded(
            "--watch", help="Show counts and rates, refreshed at this interval (2s if not given).", optional_value=True
        ),
        _forwarded("--top", help="Show the top N endpoints by drops (with --node).", type=click.IntRange(1)),
    ],
    "policy": [
        _forwarded("--direction", help="Traffic direction.", type=click.Choice(["inbound", "outbound", "all"])),
        _forwarded("--family", help="IP family.", type=click.Choice(["4", "6", "all"])),
        _forwarded("--nonzero", help="Hide rules without hits.", is_flag=True),
        _forwarded("--ip-sets", help="List the members of the rules' IP sets.", is_flag=True),
        _forwarded("--instructions", help="Also show the programs' instructions.", is_flag=True),
        _TABLE_OR_JSON,
    ],
    "why": [
        _forwarded("--for", help="How long to watch, 30s if not given; Ctrl-C ends it sooner.", type=Time()),
        _forwarded("--packets", help="Also capture the pod's packets, and show whose were denied.", is_flag=True),
        _TEXT_OR_JSON,
    ],
    "conntrack": [
        _forwarded("--top", help="Show the top N endpoints and peers by entries.", type=click.IntRange(1)),
        _TABLE_OR_JSON,
    ],
    "check": [_TEXT_OR_JSON],
    "trace": [
        _forwarded("--source-port", help="Source port (default: 40000).", type=click.IntRange(0, 65535)),
        _forwarded("--icmp-type", help="ICMP type (default: echo request).", type=click.IntRange(0, 255)),
        _forwarded("--icmp-code", help="ICMP code (default: 0).", type=click.IntRange(0, 255)),
        _forwarded("--via", help="Host interface that the packet takes on each node, where it is not known."),
        _forwarded("--verbose", help="Also show the rules that did not match, and why.", is_flag=True),
    ],
}
