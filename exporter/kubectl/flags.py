"""The plugin's flags: those that go to kubectl, those that go to the exporter's command, and how its pods are found.

The exporter's flags are named here once more because a laptop has no node's libraries to ask; a test holds both equal.
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

_Decorator = Callable[[Any], Any]
_ALONE = "(its own default)"
_MAX_SECONDS = 5.0


class KubectlFlag(click.Option):
    """A flag that every call of kubectl gets."""


class Time(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A length of time, kept as it was typed; a flag may stand without it, and must not take the pod for it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType`."""
        try:
            return str(value) if value == _ALONE else str(Duration().convert(value, param, ctx) and value)
        except click.BadParameter:
            flag = max(param.opts, key=len) if param else "the flag"
            self.fail(
                f"{value!r} is no time between 100ms and 24h; write {flag}=10s, or the pod before {flag}", param, ctx
            )


class PassedOn(click.Option):
    """A flag that the exporter's command gets as it was typed; `alone` if it may stand without its value."""

    def __init__(self, names: Sequence[str], *, alone: bool = False, **more: Any) -> None:
        if alone:
            more |= {"is_flag": False, "flag_value": _ALONE, "type": Time()}
        super().__init__(names, **more)


def words_of(context: click.Context, kind: type[click.Option]) -> list[str]:
    """The words on a command line that say what the user said with the flags of this kind."""
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        if not isinstance(option, kind) or context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        flag, value = max(option.opts, key=len), context.params.get(name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is True or one == _ALONE:
                words.append(flag)
            elif one is not None and one is not False:
                words.append(f"{flag}={one}")
    return words


def kubectl_of(context: click.Context) -> Kubectl:
    """The kubectl with the flags that the user gave for it."""
    return Kubectl(tuple(words_of(context, KubectlFlag)))


def exporters_of(context: click.Context) -> Exporters:
    """How the user said that the exporter's pods are found."""
    return Exporters(context.params["exporter_selector"], context.params["exporter_namespace"])


def complete_pods(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of pods, for a shell: of the namespace that was named, or of the context's."""
    if context.params.get(parameter.name or ""):
        return []  # there is one already
    room, slash, start = incomplete.rpartition("/")
    namespace = room or context.params.get("namespace")
    names = _names(context, "get", "pods", *([f"--namespace={namespace}"] if namespace else []))
    return [CompletionItem(f"{room}{slash}{name}") for name in names if name.startswith(start)]


def _completing(*words: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del parameter
        return [CompletionItem(name) for name in _names(context, *words) if name.startswith(incomplete)]

    return complete


def _names(context: click.Context, *words: str) -> list[str]:
    try:
        return Kubectl(tuple(words_of(context, KubectlFlag))).list_names(*words, wait=_MAX_SECONDS)
    except KubectlError:
        return []  # a shell has no place for errors


complete_nodes = _completing("get", "nodes")


def kubectl_flags(command: Any) -> Any:
    """`--context` and what else kubectl takes to find and enter a cluster, and where the exporter is in it."""
    value: dict[str, Any] = {"cls": KubectlFlag, "default": None}
    several: dict[str, Any] = {"cls": KubectlFlag, "multiple": True}
    options = [
        click.option(
            "--namespace",
            "-n",
            help="The pod's namespace.",
            default=None,
            shell_complete=_completing("get", "namespaces"),
        ),
        click.option(
            "--exporter-namespace",
            help="Where the exporter's pods are; all namespaces if not given.",
            default=None,
            envvar=f"{VARIABLE_PREFIX}_EXPORTER_NAMESPACE",
            show_envvar=True,
            shell_complete=_completing("get", "namespaces"),
        ),
        click.option(
            "--exporter-selector",
            help="The labels of the exporter's pods.",
            default=DEFAULT_SELECTOR,
            show_default=True,
            envvar=f"{VARIABLE_PREFIX}_EXPORTER_SELECTOR",
            show_envvar=True,
        ),
        click.option(
            "--context", help="The kubectl context.", shell_complete=_completing("config", "get-contexts"), **value
        ),
        click.option("--kubeconfig", help="The kubeconfig file.", type=click.Path(dir_okay=False), **value),
        click.option("--cluster", help="The cluster in the kubeconfig.", **value),
        click.option("--user", help="The user in the kubeconfig.", **value),
        click.option("--as", "as_user", help="Whom to act as.", **value),
        click.option("--as-group", help="Which group to act as; repeat it for several.", **several),
        click.option("--as-uid", help="Which uid to act as.", **value),
        click.option("--server", "-s", help="The API server's address.", **value),
        click.option("--token", help="The bearer token for the API server.", **value),
        click.option("--certificate-authority", help="The API server's authority.", type=click.Path(), **value),
        click.option("--client-certificate", help="The certificate of the user.", type=click.Path(), **value),
        click.option("--client-key", help="The key of the user.", type=click.Path(), **value),
        click.option("--tls-server-name", help="The name in the API server's certificate.", **value),
        click.option("--insecure-skip-tls-verify", help="Trust any API server.", is_flag=True, cls=KubectlFlag),
        click.option("--request-timeout", help="How long kubectl waits for one answer.", **value),
        click.option("--cache-dir", help="Where kubectl keeps what it discovers.", type=click.Path(), **value),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def passed_on(command: str) -> _Decorator:
    """The flags of one of the exporter's commands."""

    def decorate(function: Any) -> Any:
        for names, more in reversed(_PASSED_ON[command]):
            function = click.option(*names, cls=PassedOn, **more)(function)
        return function

    return decorate


_TABLE_OR_JSON = (("--output", "-o"), {"help": "How to print it.", "type": click.Choice(["table", "json"])})
_TEXT_OR_JSON = (("--output", "-o"), {"help": "How to print it.", "type": click.Choice(["text", "json"])})

_PASSED_ON: dict[str, list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    "counters": [
        (("--nonzero",), {"help": "Leave out rows that are zero.", "is_flag": True}),
        _TABLE_OR_JSON,
        (("--diff",), {"help": "Show what was counted within this time, 10s if none is given.", "alone": True}),
        (("--watch",), {"help": "Go on showing what was counted, each 2s if no time is given.", "alone": True}),
        (("--top",), {"help": "Only the so many endpoints that drop most (with --node).", "type": click.IntRange(1)}),
    ],
    "policy": [
        (("--direction",), {"help": "Which way.", "type": click.Choice(["inbound", "outbound", "all"])}),
        (("--family",), {"help": "Which IP family.", "type": click.Choice(["4", "6", "all"])}),
        (("--nonzero",), {"help": "Leave out rules without a hit.", "is_flag": True}),
        (("--ip-sets",), {"help": "Name the members of the rules' IP sets.", "is_flag": True}),
        (("--instructions",), {"help": "Show the programs' instructions too.", "is_flag": True}),
        _TABLE_OR_JSON,
    ],
    "why": [
        (("--for",), {"help": "How long to watch, 30s if not given; Ctrl-C ends it sooner.", "type": Time()}),
        _TEXT_OR_JSON,
    ],
    "check": [_TEXT_OR_JSON],
}
