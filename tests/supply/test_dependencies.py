"""Every package that the image has is listed in docs/dependencies.md, has a hash in uv.lock and a licence that may be
used from a program under Apache-2.0.
"""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from itertools import chain

import pytest

from tests import installed
from tests.installed import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = {one["name"]: one for one in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]}
PAGE = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
US = "calico-bpf-exporter"
OPTIONAL = {"bcc"}  # of Debian's python3-bpfcc, by which one of the readers works
USABLE = {
    *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Zlib", "CC0-1.0", "PSF-2.0"),
    "BSD License",  # how Jinja declares BSD-3-Clause
}
# They declare it twice, once as a classifier.
SAME = {"Apache Software License": "Apache-2.0", "MIT License": "MIT"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements):
    """The packages that these requirements are for."""
    return {normal(re.match(r"[\w.-]+", one)[0]) for one in requirements}


def direct():
    project = PYPROJECT["project"]
    return named(project["dependencies"]) | named(project["optional-dependencies"]["node"])


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    """What `make sbom` writes."""
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    subprocess.run([ROOT / ".ci/sbom", installed.UV, path], cwd=ROOT, check=True)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def components(bill):
    return {normal(one["name"]): one for one in bill["components"]}


def table(title):
    """The rows of the table under this title: a package and its other columns."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row[:1] == "|"]
    return {name: rest for name, *rest in rows[2:]}


def licences(component):
    """What a package declares, each once: SPDX where it is that, else the classifier's last words."""
    found = []
    for one in component["licenses"]:
        licence = one.get("license", {})
        word = one.get("expression") or licence.get("id") or licence["name"].rpartition(" :: ")[2]
        found.append(SAME.get(word, word))
    return sorted(set(found))


def test_the_page_lists_every_package_that_is_asked_for():
    assert direct() == set(table("Direct dependencies"))


def test_every_package_that_is_asked_for_says_why_and_what_it_costs():
    for name, (why, *costs) in table("Direct dependencies").items():
        assert why, name
        assert all(re.fullmatch(r"\d+\.\d", one) for one in costs), name


def test_every_package_that_is_imported_is_asked_for():
    files = (ROOT / "exporter").rglob("*.py")
    nodes = chain.from_iterable(ast.walk(ast.parse(file.read_bytes())) for file in files)
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    tops = {one.partition(".")[0] for one in modules} - sys.stdlib_module_names - {"exporter"} - OPTIONAL
    providers = importlib.metadata.packages_distributions()
    named_by = {top: direct() & set(map(normal, providers[top])) for top in tops}
    assert [] == [top for top, names in named_by.items() if not names]
    assert direct() == set().union(*named_by.values())


def test_the_transport_s_contract_names_all_of_the_exporter_but_its_errors():
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["name"].startswith("the transport knows nothing")]
    named = {one.removeprefix("exporter.") for one in contract["forbidden_modules"] if one.startswith("exporter.")}
    there = {path.parent.name for path in (ROOT / "exporter").glob("*/__init__.py")}
    there |= {path.stem for path in (ROOT / "exporter").glob("*.py")}
    assert named == there - {"__init__", "__main__", "errors", "web"}


def test_the_page_lists_every_package_of_the_image_with_the_licence_it_declares(components):
    shown = {name: rest[0] for name, rest in table("Licences").items()}
    assert {name: ", ".join(licences(one)) for name, one in components.items()} == shown
    assert f"These {len(components)} are all" in PAGE


def test_every_licence_may_be_used_from_a_program_under_apache_2_0(components):
    for name, component in components.items():
        declared = licences(component)
        assert declared, name
        for licence in declared:
            every = [set(one.strip("() ").split(" OR ")) for one in licence.split(" AND ")]
            assert all(USABLE & one for one in every), (name, licence)


def closure(*names):
    """These packages and what they bring, on Linux or elsewhere, as uv.lock has it."""
    found, left = set(), list(names)
    while left:
        name, _, extra = left.pop().partition(":")
        if (name, extra) not in found:
            found.add((name, extra))
            package = LOCK[name]
            asked = [*package.get("dependencies", ()), *package.get("optional-dependencies", {}).get(extra, ())]
            for one in asked:
                left += [one["name"], *(f"{one['name']}:{more}" for more in one.get("extra", ()))]
    return {name for name, _ in found}


def test_the_bill_has_what_the_exporter_needs_as_it_is_locked_and_nothing_of_tests_or_builds(components):
    needed = closure(US, f"{US}:node") - {US}
    for name, component in components.items():
        locked = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
        assert component["version"] in {one["version"] for one in locked if one["name"] == name}
    assert set(components) <= needed
    # Asked for on Windows only.
    assert {"win-inet-pton"} == needed - set(components)
    groups = PYPROJECT["dependency-groups"].values()
    tools = named(one for group in groups for one in group if isinstance(one, str))
    assert {"pytest", "hypothesis", "ruff", "mypy", "hatchling", "cyclonedx-bom"} <= tools
    assert not (tools - direct()) & set(components)


def test_the_bill_says_who_asks_for_whom_and_of_what_it_is(bill, components):
    assert US == bill["metadata"]["component"]["name"]
    assert PYPROJECT["project"]["version"] == bill["metadata"]["component"]["version"]
    asked = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert [components["markupsafe"]["bom-ref"]] == asked[components["jinja2"]["bom-ref"]]
    assert all(one["purl"].startswith(f"pkg:pypi/{name}@") for name, one in components.items())


def test_every_file_of_every_package_has_a_hash():
    files = 0
    for name, package in LOCK.items():
        kept = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        assert kept or name == US, name
        files += len(kept)
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one["hash"]) for one in kept), name
    assert files > len(LOCK)


def test_the_image_installs_nothing_from_pypi_without_a_hash():
    steps = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = (one.strip().removeprefix("RUN ") for one in re.split(r"&&|\n", steps))
    asked = [one for one in commands if one.startswith(("/uv/bin/", ".ci/build-dist"))]
    assert 4 == len(asked)
    for one in asked:
        by_hash = "--require-hashes" in one or "sync -q --locked" in one or "build-dist" in one
        assert by_hash or ("--no-deps" in one and "/dist/*.whl" in one), one
    built = (ROOT / ".ci/build-dist").read_text(encoding="utf-8")
    assert "--build-constraints" in built
    assert "--require-hashes" in built
    pinned = (ROOT / ".ci/uv.txt").read_text(encoding="utf-8")
    assert re.search(r"^uv==[\d.]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+\Z", pinned, re.MULTILINE)
