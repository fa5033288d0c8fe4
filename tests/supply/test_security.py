"""Each promise of the tables in docs/security.md has tests, and these exist.

`tests/faults/test_page.py` does the same for docs/faults.md.
"""

import re

import pytest

from tests.installed import ROOT

PAGE = ROOT / "docs" / "security.md"
CLIENTS = {
    "idle or slow": [
        "test_a_client_that_says_nothing_is_cut",
        "test_an_idle_connection_is_closed_in_the_end",
        "test_at_the_cap_the_oldest_idle_connection_is_evicted",
        "test_an_admission_costs_the_same_beside_8_and_512_connections",
    ],
    "512 busy": [
        "test_one_address_with_every_place_busy_keeps_nobody_else_out",
        "test_when_no_client_reads_the_longest_waiting_is_evicted",
    ],
    "never reading": [
        "test_clients_that_never_read_are_cut",
        "test_clients_that_ask_in_turn_and_never_read_do_not_hold_a_body_each",
    ],
    "endless or huge": ["test_a_head_without_measure_is_refused"],
    "two lengths": [
        "test_a_head_that_another_server_may_read_differently_is_refused",
        "test_a_second_request_hidden_behind_an_ambiguous_body_is_never_served",
    ],
    "a request body": ["test_a_bomb_in_a_body_is_not_unpacked", "test_a_body_is_not_waited_for"],
    "a pod, policy": [
        "test_every_page_has_the_same_tags_whatever_names_hold",
        "test_style_and_script_are_allowed_by_what_they_are",
    ],
    "flooding": [
        "test_200_scrapes_at_once_are_all_answered_and_take_few_snapshots",
        "test_one_address_leaves_places_to_others",
    ],
    "flooding the page": [
        "test_scrapes_are_answered_beside_many_requests_for_the_page",
        "test_requests_for_the_page_share_a_snapshot_of_about_a_second",
        "test_who_would_be_one_too_many_on_the_page_waits_a_moment_and_is_turned_away",
    ],
    "asking the page": ["test_a_packet_is_evaluated_and_its_snapshot_is_not_kept"],
    "brute-forcing": [
        "test_brute_force_takes_a_tenth_of_a_cpu",
        "test_a_flood_of_tokens_reaches_the_server_in_drops_and_delays_no_known_scraper",
    ],
    "guessing": ["test_a_name_that_does_not_exist_takes_as_long_as_one_that_does"],
    "thousands of": ["test_whoever_has_no_right_pushes_out_nobody_who_has"],
    "exhausting": ["test_who_has_no_credentials_uses_up_nothing_of_those_who_have"],
    "endless TLS": ["test_new_keys_without_end_are_cut", "test_a_handshake_that_comes_byte_by_byte_is_cut_in_time"],
}
STEPS = {
    "leaves all": ["test_what_the_group_of_root_may_write_and_reach_is_refused"],
    "becomes user": ["test_a_write_is_refused_to_any_code_in_any_thread", "test_the_user_is_one_that_no_pod_can_have"],
    "keeps of": ["test_each_thread_has_what_reading_takes_and_no_more"],
    "sets `no_new_privs`": ["test_each_thread_has_what_reading_takes_and_no_more"],
    "loads a filter": ["test_a_write_is_refused_to_any_code_in_any_thread"],
}
ATTACKERS = {
    "someone in the cluster": [
        "test_only_a_user_sees_anything_at_all",
        "test_a_foreign_name_gets_no_page_and_everything_else",
        "test_the_rendered_policy_is_the_one_that_closed_the_port_to_pods_of_the_same_node",
    ],
    "the same": ["test_a_thousand_slow_clients_keep_nobody_out"],
    "a pod of": ["test_every_page_has_the_same_tags_whatever_names_hold"],
    "someone who can write to": ["test_a_file_in_a_folders_place_takes_only_what_it_says_and_ends_with_it"],
    "someone who takes over": ["test_a_write_is_refused_to_any_code_in_any_thread"],
    "someone who takes the service": ["test_of_itself_it_is_one_daemonset_with_the_right_to_see_pods"],
    "someone with `pods/exec`": [],  # a warning and no promise
}
TABLES = {"| client | limit |": CLIENTS, "| step | effect |": STEPS, "| attacker |": ATTACKERS}


@pytest.mark.parametrize("head", TABLES)
def test_every_line_of_a_table_has_its_tests(head):
    table = PAGE.read_text(encoding="utf-8").partition(head)[2].partition("\n\n")[0]
    lines = [line.strip("| ") for line in table.splitlines()[2:]]
    assert len(lines) == len(TABLES[head])
    assert [] == [line for line, start in zip(lines, TABLES[head], strict=True) if not line.startswith(start)]


def test_every_test_that_a_line_has_is_there():
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = {name for text in sources for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    wanted = {test for table in TABLES.values() for tests in table.values() for test in tests}
    assert set() == wanted - there
