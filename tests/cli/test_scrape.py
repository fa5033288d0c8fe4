"""`scrape`: one scrape on standard output or in a file that is replaced in one step."""

import os
import stat
import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

HERE = "v3.32.1/05-eot-egress-deny.after"
UNDECIDED = "upgrade/2-v3.30.7"


def names(families):
    return {sample.name for family in families for sample in family.samples}


def test_it_prints_a_scrape_as_text(run, recording):
    result = run("scrape", "--bundle", recording(HERE))
    assert (0, "") == (result.exit_code, result.stderr)
    found = names(parse_text(result.stdout))
    assert {"calico_bpf_program_packets_total", "calico_bpf_endpoint_info", "calico_bpf_map_entries"} <= found
    assert "calico_bpf_exporter_build_info" in found


def test_it_says_nothing_about_its_own_process(run, recording):
    found = names(parse_text(run("scrape", "--bundle", recording(HERE)).stdout))
    assert set() == {name for name in found if not name.startswith("calico_bpf_")}


def test_openmetrics_has_the_same_samples_and_its_end_mark(run, recording):
    text = run("scrape", "--bundle", recording(HERE)).stdout
    openmetrics = run("scrape", "--format", "openmetrics", "--bundle", recording(HERE)).stdout
    assert openmetrics.endswith("\n# EOF\n")
    assert names(parse_text(text)) == names(parse_openmetrics(openmetrics))


def test_a_failed_collector_is_exit_1_and_the_rest_is_written(run, recording):
    result = run("scrape", "--bundle", recording(UNDECIDED))
    assert 1 == result.exit_code
    assert "collector counters failed: undecided which of cali_counters2, cali_counters3" in result.stderr
    assert 'calico_bpf_scrape_collector_success{collector="counters"} 0\n' in result.stdout
    assert 'calico_bpf_scrape_collector_success{collector="endpoints"} 1\n' in result.stdout
    assert "calico_bpf_endpoint_info{" in result.stdout
    assert "calico_bpf_program_packets_total{" not in result.stdout


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_a_file_is_written_that_everybody_may_read(run, recording, tmp_path, umask):
    file = tmp_path / "calico.prom"
    before = os.umask(umask)
    try:
        result = run("scrape", "--output", file, "--bundle", recording(HERE))
    finally:
        os.umask(before)
    assert (0, "") == (result.exit_code, result.output)
    assert 0o644 == stat.S_IMODE(file.stat().st_mode)
    assert "calico_bpf_program_packets_total" in names(parse_text(file.read_text(encoding="utf-8")))


def test_a_file_is_replaced_and_never_written_into(run, recording, tmp_path):
    file = tmp_path / "calico.prom"
    file.write_text("before", encoding="utf-8")
    with file.open(encoding="utf-8") as reader:
        assert 0 == run("scrape", "--output", file, "--bundle", recording(HERE)).exit_code
        assert "before" == reader.read()
    assert file.read_text(encoding="utf-8").startswith("# HELP ")
    assert [file] == list(tmp_path.iterdir())


def test_a_file_is_written_even_when_a_collector_failed(run, recording, tmp_path):
    file = tmp_path / "calico.prom"
    result = run("scrape", "--output", file, "--bundle", recording(UNDECIDED))
    assert (1, "") == (result.exit_code, result.stdout)
    assert "calico_bpf_endpoint_info{" in file.read_text(encoding="utf-8")


def test_a_link_at_the_place_of_the_file_is_replaced_and_not_followed(run, recording, tmp_path):
    target, file = tmp_path / "target", tmp_path / "calico.prom"
    target.write_text("before", encoding="utf-8")
    file.symlink_to(target)
    assert 0 == run("scrape", "--output", file, "--bundle", recording(HERE)).exit_code
    assert ("before", False) == (target.read_text(encoding="utf-8"), file.is_symlink())


def test_a_file_in_a_folder_that_is_not_there_is_a_sentence(run, recording, tmp_path):
    result = run("scrape", "--output", tmp_path / "nowhere" / "calico.prom", "--bundle", recording(HERE))
    assert 1 == result.exit_code
    assert "calico.prom could not be written: No such file or directory" in result.stderr
    assert 1 == len(result.stderr.splitlines())


def test_a_folder_is_no_file_to_write_to(run, recording, tmp_path):
    result = run("scrape", "--output", tmp_path, "--bundle", recording(HERE))
    assert 2 == result.exit_code


def test_a_failed_write_leaves_the_old_file_and_nothing_else(recording, tmp_path):
    file = tmp_path / "calico.prom"
    file.write_text("before", encoding="utf-8")
    code = (
        "import resource, signal\n"
        "from exporter.cli.main import program\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"program(['scrape', '--output', {str(file)!r}, '--bundle', {str(recording(HERE))!r}])\n"
    )
    ended = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, check=False)
    assert 1 == ended.returncode
    assert b"Error: " in ended.stderr
    assert b"could not be written: File too large" in ended.stderr
    assert ("before", [file]) == (file.read_text(encoding="utf-8"), list(tmp_path.iterdir()))
