"""Whatever kubectl and the exporters behind it answer, the plugin prints text that UTF-8 carries and ends with its own
exit codes or one sentence, never with another exception.
"""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import click
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.kubectl.kubectl import Finished, Kubectl, KubectlError, PodName
from exporter.kubectl.plugin import program
from exporter.kubectl.targets import Exporters, NoTarget, Target, all_targets, target_of_pod
from exporter.kubectl.top import Wanted, show_top
from exporter.kubectl.two_pods import explain_two
from tests.fuzz.shapes import BROKEN, changed, encoded

TEN = Wanted("10s", 10, None, 16)
EXPORTER = {
    "metadata": {"name": "exporter-n1", "namespace": "system"},
    "spec": {"nodeName": "n1"},
    "status": {
        "phase": "Running",
        "containerStatuses": [{"state": {"waiting": {"reason": "x"}}}, {"state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "message": "no"}],
    },
}
POD = {"metadata": {"name": "one", "namespace": "ns"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
COUNTED = {
    "category": "dropped",
    "direction": "inbound",
    "hook": "x",
    "reason": "policy",
    "count": 10,
    "per_second": 1.5,
}
TOP = {"endpoints": [{"namespace": "ns", "pod": "one", "interface": "cali1", "counted": [COUNTED, COUNTED]}]}
PEER = {"peer": "10.0.0.2", "peer_name": "another node", "destination": "10.96.0.1", "backend": "10.0.0.3 80"}
WHY = {
    "loses_packets": False,
    "counted": [COUNTED, COUNTED | {"category": "total"}],
    "denied_flows": [{"peer": "10.0.0.1", "peer_pod": None, "service": "10.96.0.1:80"}],
    "packets": {"groups": [PEER | {"verdict": "denied"}]},
    "text": ["one 10.0.0.1", "two another node (10.0.0.2) at 10.96.0.1, asked for as service 10.96.0.1:80"],
}
PLACE = Target("n1", PodName("system", "exporter-n1"), PodName("ns", "one"))


def with_answers(answers, ask):
    """How a question ends, where kubectl prints these answers one after another: its exit code, output and errors."""
    left = list(answers)

    def run(*_, **__):
        return left.pop(0) if len(left) > 1 else left[0]

    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    code = 0
    with patch.object(Kubectl, "_run", run), redirect_stdout(out), redirect_stderr(errors):
        try:
            ask(Kubectl())
        except click.exceptions.Exit as error:
            code = error.exit_code
        except (KubectlError, NoTarget) as error:
            assert str(error)  # noqa: PT017  what else it may be is the caller's law
            code = 1
    for stream in (out, errors):
        stream.flush()
    return code, out.buffer.getvalue().decode()


RAN = st.builds(Finished, st.integers(0, 255), encoded(TOP) | encoded(WHY), st.text())
RIGHT = json.dumps({"items": [EXPORTER | {"status": {"phase": "Running"}}]}).encode()
PODS = st.builds(Finished, st.just(0), encoded({"items": [EXPORTER, EXPORTER]}), st.text())


@example(Finished(0, RIGHT, ""), Finished(0, json.dumps(TOP).replace("10", "1e999").encode(), ""), "table")
@example(Finished(0, RIGHT, ""), Finished(0, json.dumps(TOP).replace("10", "9" * 4300).encode(), ""), "table")
@given(
    PODS | st.just(Finished(0, RIGHT, "")),
    st.builds(Finished, st.integers(0, 255), encoded(TOP), st.text()),
    st.sampled_from(["json", "table"]),
)
def test_whatever_the_nodes_say_top_ends_well(pods, ran, output):
    code, printed = with_answers([pods, ran], lambda kubectl: show_top(kubectl, Exporters(), TEN, output))
    assert code in (0, 1)
    assert output == "table" or not printed or json.loads(printed)["droppers"] is not None


@example(Finished(0, json.dumps(WHY).replace("10", "1e999").encode(), ""), None)
@example(Finished(0, json.dumps(WHY).replace("10", "9" * 4300).encode(), ""), None)
@given(st.builds(Finished, st.integers(0, 255), encoded(WHY), st.text()), st.sampled_from(["json", None]))
def test_whatever_two_exporters_say_why_ends_well(ran, output):
    def ask(kubectl):
        explain_two(kubectl, PLACE, PLACE, watch=None, output=output)

    code, printed = with_answers([ran], ask)
    assert code in (0, 1, 3)
    assert output is None or not printed or len(json.loads(printed)["legs"]) == 4


@given(changed(POD).map(json.dumps), changed({"items": [EXPORTER]}).map(json.dumps), st.text())
def test_any_pod_has_a_place_or_a_sentence_why_not(pod, exporters, wanted):
    answers = [Finished(0, one.encode(), "") for one in (pod, exporters)]

    def ask(kubectl):
        place = target_of_pod(kubectl, Exporters(), wanted or "one", None)
        assert {str} == {type(text) for text in (place.node, place.exporter.namespace, place.exporter.name)}

    assert with_answers(answers, ask)[0] in (0, 1)


@given(st.builds(Finished, st.integers(0, 1), encoded({"items": [EXPORTER, POD]}) | BROKEN, st.text()))
def test_any_list_of_exporters_is_places_and_problems_or_a_sentence(ran):
    def ask(kubectl):
        places, problems = all_targets(kubectl, Exporters())
        assert places
        assert {str} >= {type(one) for one in problems}

    assert with_answers([ran], ask)[0] in (0, 1)


# All but `bundle`, which would write files of these names.
ASKED = "counters policy why check top --to --node -n -o json --nonzero --diff --diff=1s --watch -- --top one ns/one"
MORE = "--help --for=3s --context=x --selector --exporter-namespace -A --for --output=json"
WORDS = st.lists(st.sampled_from(f"{ASKED} {MORE}".split()) | st.text(max_size=5), max_size=6)


@given(WORDS)
def test_any_command_line_ends_with_a_known_exit_code(words):
    answers = {"items": [EXPORTER], **POD}
    ran = Finished(0, json.dumps(answers | TOP | WHY).encode(), "")
    with patch.object(Kubectl, "_run", lambda *_, **__: ran), patch.object(Kubectl, "attach", lambda *_: 0):
        result = CliRunner().invoke(program, words, standalone_mode=True)
    assert result.exception is None or isinstance(result.exception, (SystemExit, KubectlError, NoTarget))
    assert result.exit_code in (0, 1, 2, 3)
