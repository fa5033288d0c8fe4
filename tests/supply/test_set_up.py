"""What .ci/install-packages does with Debian's packages, with programs of ours in the place of Debian's."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HAS = {"12": {"prometheus": "prometheus promtool"}, "13": {"prometheus": "prometheus", "promtool": "promtool"}}
PROGRAMS = {
    "id": "echo 0",
    "dpkg-query": "printf 'install ok installed'",
    "apt-cache": '[ -e "$PACKAGES/$2" ]',
    # `download` comes with the packages after it, and puts each where it stands.
    "apt-get": """
        while [ "$1" != download ] && [ "$1" != update ]; do shift; done
        [ "$1" = download ] || exit 0
        shift
        for name; do cp "$PACKAGES/$name" "${name}_1_amd64.deb"; done""",
    "dpkg-deb": 'mkdir -p "$3/usr/bin"; for name in $(cat "$2"); do printf "#!/bin/sh" >"$3/usr/bin/$name"; '
    'chmod +x "$3/usr/bin/$name"; done',
}


@pytest.fixture(params=HAS)
def debian(request, tmp_path):
    """Runs the script on this Debian, with `programs` in the place of some; its exit code, tools and what it leaves."""
    folders = [tmp_path / name for name in ("bin", "packages", "tmp")]
    for folder in folders:
        folder.mkdir()
    for name, content in HAS[request.param].items():
        (folders[1] / name).write_text(content)

    def install(*words, **programs):
        for name, text in (PROGRAMS | programs).items():
            file = folders[0] / name
            file.write_text(f"#!/bin/sh\n{text}\n")
            file.chmod(0o755)
        environment = {"PATH": f"{folders[0]}:/usr/bin:/bin", "PACKAGES": folders[1], "TMPDIR": folders[2]}
        command = [ROOT / ".ci/install-packages", tmp_path / "tools", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        install.said = done.stdout
        return done.returncode, sorted(path.name for path in tmp_path.glob("tools/bin/*")), list(folders[2].iterdir())

    return install


@pytest.mark.parametrize("words", [(), ("demo",)])
def test_prometheus_and_promtool_are_unpacked_from_the_packages_that_have_them(debian, words):
    assert (0, ["prometheus", "promtool"], []) == debian(*words)


def test_an_earlier_set_up_that_has_one_of_them_is_completed(debian, tmp_path):
    (tmp_path / "tools/bin").mkdir(parents=True)
    (tmp_path / "tools/bin/prometheus").touch(mode=0o755)
    assert (0, ["prometheus", "promtool"], []) == debian()


def test_a_set_up_says_what_it_installs_before_it_does_and_nothing_when_all_is_there(debian):
    debian("demo")
    assert "setting up with apt, which can take a minute: prometheus promtool\n" == debian.said
    debian("demo")
    assert "" == debian.said


@pytest.mark.parametrize("broken", ["apt-get", "dpkg-deb"])
def test_a_set_up_that_fails_says_so_and_leaves_nothing_behind(debian, broken):
    first = {"apt-get": '[ "$2" = update ] || { touch part.deb; exit 100; }', "dpkg-deb": "mkdir -p $3/usr/bin; exit 2"}
    code, tools, left = debian(**{broken: first[broken]})
    assert code
    assert ([], []) == (tools, left)
