"""The release: workflows that trust nothing that can change, and a check that finds what does not belong together."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml

from exporter import __version__
from tests import installed
from tests.installed import ROOT, UV

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SOURCES = ("pyproject.toml", "uv.lock", "CHANGELOG.md", "exporter/__init__.py", "chart/Chart.yaml")
ARTEFACTS = ("dist/*.whl", "dist/calico*.gz", "dist/kubectl*", "dist/*.yaml", "build/*.tgz", "build/*.json")
PUBLISHING = {"packages", "id-token", "attestations", "contents"}


def jobs(workflow):
    return yaml.safe_load(workflow.read_text())["jobs"]


def steps(workflow):
    return [step for job in jobs(workflow).values() for step in job.get("steps", ())]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(workflow):
    lines = re.findall(r"^ *-? *uses: (.*)$", workflow.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        assert line.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


def test_an_action_is_the_same_in_all_workflows():
    used = {line for one in WORKFLOWS for line in re.findall(r"uses: ([^.].*)$", one.read_text(), re.MULTILINE)}
    assert len({line.partition("@")[0] for line in used}) == len(used)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_has_the_permissions_that_it_names_and_no_other(workflow):
    assert {} == yaml.safe_load(workflow.read_text())["permissions"]
    for name, job in jobs(workflow).items():
        assert job["permissions"], name
        writes = {what for what, access in job["permissions"].items() if access == "write"}
        assert writes <= PUBLISHING
        # What runs code of the project and of its dependencies can publish nothing; but the image is built.
        runs = [step.get("run", "") for step in job.get("steps", ())]
        assert not writes or not any("make " in one for one in runs), name
        assert name == "image" or not writes or not any("checkout" in step.get("uses", "") for step in job["steps"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_nothing_from_outside_becomes_part_of_a_script_and_no_token_stays_in_the_clone(workflow):
    for step in steps(workflow):
        assert "${{" not in step.get("run", "")
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    assert "secrets." not in workflow.read_text()
    assert "pull_request_target" not in workflow.read_text()


def test_what_is_published_was_tested_and_built_once():
    release = jobs(ROOT / ".github/workflows/release.yml")
    assert "./.github/workflows/test.yml" == release["test"]["uses"]
    assert "test" == release["build"]["needs"]
    assert {"pypi", "image", "chart"} == set(release["github"]["needs"])
    text = (ROOT / ".github/workflows/release.yml").read_text()
    for demanded in (
        'make release-check TAG="$GITHUB_REF_NAME" PUBLISHED="ghcr.io/${GITHUB_REPOSITORY,,}"',
        "PLATFORM=linux/amd64,linux/arm64",
        "pypa/gh-action-pypi-publish@",
        "helm push",
        "cosign sign --yes",
        "cosign sign-blob",
        "attest-build-provenance@",
        "attest-sbom@",
        "calico-bpf-exporter.cdx.json",
    ):
        assert demanded in text
    assert any("make test-all" in step.get("run", "") for step in steps(ROOT / ".github/workflows/test.yml"))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tree with all that a release builds."""
    tree = tmp_path_factory.mktemp("release")
    for name in SOURCES:
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(installed.dist(), tree / "dist")
    (tree / "build").mkdir()
    subprocess.run([ROOT / ".tools/bin/helm", "package", "-d", tree / "build", ROOT / "chart"], check=True)
    plugin = [sys.executable, ROOT / ".ci/build-plugin", UV, installed.wheel(), tree / "dist"]
    subprocess.run(plugin, check=True)
    subprocess.run([ROOT / ".ci/sbom", UV, tree / "build/calico-bpf-exporter.cdx.json"], cwd=ROOT, check=True)
    return tree


@pytest.fixture
def tree(released, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(released, tmp_path / "tree")


def check(tree, *tag):
    words = [sys.executable, ROOT / ".ci/release-check", *tag]
    return subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)


def dated(tree):
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace(f"{__version__} (unreleased)", f"{__version__} (2026-01-02)"))


def test_what_belongs_together_is_released_with_its_tag_and_notes(tree):
    dated(tree)
    ended = check(tree, f"v{__version__}")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert f"version {__version__}" in ended.stdout
    notes = (tree / "build/release-notes.md").read_text()
    assert "* " in notes
    assert "\n## " not in notes


def test_this_tree_is_prepared_but_for_the_date(tree):
    ended = check(tree)
    assert (0, "") == (ended.returncode, ended.stderr)


@pytest.mark.parametrize("tag", ["v9.9.9", __version__, f"v{__version__}-rc1"])
def test_another_tag_is_refused(tree, tag):
    dated(tree)
    ended = check(tree, tag)
    assert (1, f"the tag is {tag}, the version {__version__}\n") == (ended.returncode, ended.stderr)


@pytest.mark.parametrize(
    "file", ["pyproject.toml", "uv.lock", "CHANGELOG.md", "exporter/__init__.py", "chart/Chart.yaml"]
)
def test_one_file_of_another_version_is_refused(tree, file):
    path = tree / file
    text = path.read_text()
    changed = re.sub(
        rf'(name = "calico-bpf-exporter"\nversion = ")?{re.escape(__version__)}', r"\g<1>9.8.7", text, count=1
    )
    if file == "uv.lock":
        start = text.index('name = "calico-bpf-exporter"')
        changed = text[:start] + text[start:].replace(__version__, "9.8.7", 1)
    assert text != changed
    path.write_text(changed)
    ended = check(tree)
    assert 1 == ended.returncode
    assert "9.8.7" in ended.stderr or "was not built" in ended.stderr


@pytest.mark.parametrize("pattern", ARTEFACTS)
def test_a_missing_artefact_is_refused(tree, pattern):
    (one,) = tree.glob(pattern)
    one.unlink()
    ended = check(tree)
    assert 1 == ended.returncode
    assert one.name in ended.stderr


def test_a_release_needs_a_date_and_lines_in_the_changelog(tree):
    assert "is unreleased" in check(tree, f"v{__version__}").stderr
    (tree / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## {__version__} (2026-01-02)\n\n## 0.1.0 (2025-01-02)\n\n* this\n"
    )
    assert f"CHANGELOG.md has no line about {__version__}\n" == check(tree, f"v{__version__}").stderr


def test_the_chart_of_a_release_names_the_published_image(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "chart", tree / "chart")
    shutil.copy(ROOT / "Makefile", tree)
    words = [
        "make",
        "-o",
        "setup",
        "chart",
        f"TOOLS={ROOT / '.tools'}",
        "PUBLISHED=ghcr.io/somebody/calico-bpf-exporter",
    ]
    subprocess.run(words, cwd=tree, check=True, capture_output=True)
    values = tree / "build/chart/values.yaml"
    image = yaml.safe_load(values.read_text())["image"]
    assert ("ghcr.io", "somebody/calico-bpf-exporter") == (image["registry"], image["repository"])
