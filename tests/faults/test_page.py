"""Each line of docs/faults.md has tests, and they check the log messages that it quotes."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "faults.md"
# The tests of each line, by the beginning of its first cell.
COVERED_BY = {
    "a map is deleted": ["test_a_map_that_is_deleted_is_absent_until_it_is_there_again"],
    "a map is replaced": [
        "test_a_map_replaced_in_the_middle_of_its_read_is_served_whole_as_it_was_then_as_it_is",
    ],
    "Calico is upgraded": [
        "test_an_upgrade_and_a_downgrade_while_scraped_show_each_map_s_numbers_in_order",
        "test_programs_that_cannot_be_asked_in_the_middle_of_an_upgrade_change_no_number",
        "test_killed_in_the_middle_of_an_upgrade_it_shows_no_number_until_it_knows_whose",
    ],
    "the kernel refuses": [
        "test_each_error_of_each_call_takes_what_needs_the_map_and_no_more_and_leaves_nothing",
        "test_key_by_key_too_a_map_is_whole_or_absent",
        "test_a_fault_that_lasts_is_one_sentence_and_its_end_another",
        "test_every_map_refused_takes_all_that_is_counted_and_the_exporter_itself_is_whole",
    ],
    "the process has no free": [
        "test_without_a_free_descriptor_nothing_is_served_as_known_and_afterwards_all_is_as_before"
    ],
    "the process is refused": ["test_without_memory_for_a_snapshot_the_failure_is_logged_once_and_all_recovers"],
    "no thread may": [
        "test_where_its_threads_may_not_be_started_the_start_ends_with_a_sentence",
        "test_five_threads_are_enough_for_everything",
    ],
    "no process may": ["test_where_bpftool_may_not_be_started_it_is_said_and_when_it_may_all_is_read"],
    "links change": ["test_after_an_overrun_every_pod_has_its_own_name_and_its_own_counts"],
    "the BPF file system": ["test_a_bpf_file_system_unmounted_and_mounted_again_is_absence_and_then_the_same_numbers"],
    "the same, where": [
        "test_in_a_container_a_file_system_mounted_again_is_seen_at_once_only_where_its_parent_is_mounted"
    ],
    "Calico's run directory is deleted": [
        "test_when_it_is_deleted_counts_keep_their_pod_rules_are_absent_and_all_comes_back_with_it",
        "test_what_the_exporter_never_knew_has_no_name_until_it_is_there_and_its_counts_all_the_same",
        "test_in_a_mount_of_the_folder_itself_what_was_made_again_is_seen_after_a_restart",
        "test_a_file_system_mounted_over_a_folder_is_another_folder",
    ],
    "a folder of it hangs": ["test_a_folder_that_hangs_takes_only_its_facts_and_is_waited_for_once"],
    "Calico's run directory is not there": [
        "test_what_the_exporter_never_knew_has_no_name_until_it_is_there_and_its_counts_all_the_same"
    ],
    "the interface state": ["test_an_interface_state_of_unknown_layout_takes_its_own_facts_and_nothing_else"],
    "Calico leaves": ["test_what_is_left_of_interfaces_that_are_gone_is_counted_and_nothing_else"],
    "a folder of it is not": ["test_a_file_in_a_folders_place_takes_only_what_it_says_and_ends_with_it"],
    "the disk": [
        "test_a_log_that_cannot_be_written_changes_no_number_leaks_nothing_and_ends_well",
        "test_a_log_on_a_disk_that_was_full_goes_on_with_whole_lines_and_none_about_logging",
    ],
    "the pipe of the log": ["test_a_log_that_nobody_reads_is_not_waited_for_and_goes_on_when_somebody_does"],
    "SIGTERM": [
        "test_a_scrape_in_the_middle_of_its_read_is_ended_whole_when_the_kernel_answers_in_time",
        "test_of_many_scrapes_at_the_end_each_is_whole_or_told_to_be_cut",
    ],
    "the kernel hangs": ["test_a_scrape_whose_read_never_ends_is_cut_and_does_not_keep_it_from_ending"],
    "SIGKILL": [
        "test_killed_it_starts_again_at_once_on_its_port_with_the_same_numbers",
        "test_killed_in_the_middle_of_an_upgrade_it_shows_no_number_until_it_knows_whose",
    ],
    "the clock": [
        "test_a_clock_that_jumps_changes_no_number_and_returns_without_a_trace",
        "test_a_file_written_again_under_a_wrong_clock_is_read_again",
        "test_the_log_goes_on_under_a_clock_that_was_set_back",
    ],
    "a kernel of": ["test_every_cpu_is_in_every_sum"],
}


def rows():
    """The cells of each line of the table."""
    table = PAGE.read_text(encoding="utf-8").partition("| fault |")[2]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:] if line.startswith("|")]


def sources():
    """The text of the file that defines each test."""
    texts = [path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py") if path != Path(__file__)]
    return {name: text for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_every_line_has_its_tests_and_every_test_its_line():
    lines = [row[0] for row in rows()]
    assert len(lines) == len(COVERED_BY)
    assert [] == [line for line, beginning in zip(lines, COVERED_BY, strict=True) if not line.startswith(beginning)]
    about_the_program = {"test_a_refusal_of_memory_is_a_sentence_and_ends_with_it"}
    assert sources().keys() - about_the_program == {test for tests in COVERED_BY.values() for test in tests}


@pytest.mark.parametrize("number", range(len(COVERED_BY)), ids=COVERED_BY)
def test_what_a_line_quotes_of_the_log_is_checked_by_its_tests(number):
    quoted = re.findall(r"`([^`]+)`", rows()[number][2])
    checked = [sources()[test] for test in list(COVERED_BY.values())[number]]
    assert [] == [one for one in quoted if not any(one in text for text in checked)]
