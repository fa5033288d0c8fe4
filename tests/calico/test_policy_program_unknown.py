"""What the interpreter does not know ends with one sentence, never with a guess."""

import struct

import pytest

from exporter.calico.policy_file import Instruction
from exporter.calico.policy_machine import run
from exporter.calico.policy_program import NotKnown, program_of

R0, EXIT = (0xB7, 0, 0, 0, 2), (0x95, 0, 0, 0, 0)


def code(*rows, notes=()):
    """Instructions (opcode, destination, source, offset, immediate); `notes` are (comments, annotation) by index."""
    notes = dict(notes)
    return [
        Instruction(struct.pack("<BBhi", one[0], one[2] << 4 | one[1], one[3], one[4]), (), *notes.get(index, ((), "")))
        for index, one in enumerate(rows)
    ]


def execute(*rows, packet=None, notes=(), members=lambda _: False, xdp=False):
    return run(program_of(code(*rows, notes=notes), xdp=xdp), packet or {}, members)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ((0x27, 0, 0, 0, 3), "opcode 0x27 is not known"),  # multiplication
        ((0x37, 0, 0, 0, 3), "opcode 0x37 is not known"),  # division
        ((0x87, 0, 0, 0, 0), "opcode 0x87 is not known"),  # negation
        ((0xD7, 0, 0, 0, 16), "opcode 0xd7 is not known"),  # an unconditional byte swap
        ((0xD4, 0, 0, 0, 24), "opcode 0xd4 is not known"),
        ((0xBF, 0, 0, 8, 0), "opcode 0xbf is not known"),  # a move with sign extension
        ((0x7A, 10, 0, -8, 1), "opcode 0x7a is not known"),  # a store of a number
        ((0xDB, 10, 0, -8, 0), "opcode 0xdb is not known"),  # an atomic operation
        ((0x81, 0, 10, -8, 0), "opcode 0x81 is not known"),  # a load with sign extension
        ((0x06, 0, 0, 0, 1), "opcode 0x06 is not known"),  # a long jump
        ((0x85, 0, 1, 0, 1), "opcode 0x85 is not known"),  # a call of the program's own
        ((0x85, 0, 0, 0, 7), "helper 7 is not known"),
        ((0x18, 0, 5, 0, 0), "a load of 64 bits is not known"),
        ((0xBF, 0, 7, 0, 0), "register 7 has no value"),
        ((0x07, 3, 0, 0, 1), "register 3 has no value"),
        ((0xB7, 10, 0, 0, 1), "register 10 cannot be written"),
        ((0x61, 0, 10, -8, 0), "which has no value here"),
        ((0x61, 0, 1, 0, 0), "which has no value here"),  # a field of the context that is not skb->cb
        ((0x7B, 1, 0, 48, 0), "outside of its stack and its state"),
        ((0x7B, 10, 0, 0, 0), "outside of its stack and its state"),
        ((0x7B, 10, 0, -513, 0), "outside of its stack and its state"),
        ((0x05, 0, 0, 100, 0), "a jump leaves the program"),
        ((0x05, 0, 0, -100, 0), "a jump leaves the program"),
        ((0x95, 0, 0, 0, 0), "its result 7 is not known"),
    ],
)
def test_what_is_not_of_the_subset_ends_with_a_sentence(row, sentence):
    with pytest.raises(NotKnown, match=sentence) as raised:
        execute((0xB7, 0, 0, 0, 7), row, (0x00, 0, 0, 0, 0), EXIT)
    assert "\n" not in str(raised.value)


def test_a_program_that_goes_on_and_on_is_ended():
    endless = program_of(code((0x05, 0, 0, -1, 0)), xdp=False)
    with pytest.raises(NotKnown, match="did not end after 1000 steps"):
        run(endless, {}, lambda _: False, max_steps=1000)


HEADER = (
    (0xBF, 6, 1, 0, 0),
    (0xB7, 1, 0, 0, 0),
    (0x63, 10, 1, -4, 0),
    (0xBF, 2, 10, 0, 0),
    (0x07, 2, 0, 0, -4),
    (0x18, 1, 1, 0, 5),
    (0x00, 0, 0, 0, 0),
    (0x85, 0, 0, 0, 1),
    (0xBF, 9, 0, 0, 0),
)


def test_a_field_without_a_value_is_named():
    notes = {9: ((), "R1 = *(u32 *)(R9 + 8) /* state->ip_src */")}
    rows = (*HEADER, (0x61, 1, 9, 8, 0), R0, EXIT)
    with pytest.raises(NotKnown, match="it reads state->ip_src, which has no value here"):
        execute(*rows, notes=notes)
    assert "deny" == execute(*rows, notes=notes, packet={"ip_src": bytes(4)}).verdict


def test_a_load_that_no_note_describes_has_no_value():
    with pytest.raises(NotKnown, match="which has no value here"):
        execute(*HEADER, (0x61, 1, 9, 8, 0), R0, EXIT, packet={"ip_src": bytes(4)})


@pytest.mark.parametrize(
    ("index", "result", "comments", "expected"),
    [
        (48, 1, (), "allow"),
        (52, 2, (), "deny"),
        (48, 2, (), "it goes to allow with another result"),
        (None, 1, ("Allow jump to 9",), "allow"),
        (None, 2, ("Deny jump to 9",), "deny"),
        (None, 1, ("Deny jump to 9",), "it goes to deny with another result"),
        (None, 1, ("Allow jump to 8",), "it calls a program that nothing names"),
        (None, 1, (), "it calls a program that nothing names"),
        (None, 1, ("Tail call to policy program at index 10000 * 1 + 9 = 9",), "a program that the file does not have"),
    ],
)
def test_the_end_is_a_call_that_the_file_explains_and_the_state_confirms(index, result, comments, expected):
    third = (0xB4, 3, 0, 0, 9) if index is None else (0x61, 3, 6, index, 0)
    rows = (
        *HEADER,
        (0xB4, 1, 0, 0, result),
        (0x63, 9, 1, 92, 0),
        (0xBF, 1, 6, 0, 0),
        (0x18, 2, 1, 0, 6),
        (0x00, 0, 0, 0, 0),
        third,
        (0x85, 0, 0, 0, 12),
        EXIT,
    )
    notes = {10: ((), "*(u32 *) (R9 + 92) /* state->pol_rc */ = R1"), 14: (comments, "")}
    if expected in {"allow", "deny"}:
        assert expected == execute(*rows, notes=notes).verdict
    else:
        with pytest.raises(NotKnown, match=expected):
            execute(*rows, notes=notes)


@pytest.mark.parametrize(("result", "expected"), [(1, "deny"), (2, "no_match")])
def test_an_xdp_program_ends_by_its_result(result, expected):
    assert expected == execute((0xB7, 0, 0, 0, result), EXIT, xdp=True).verdict


def test_a_program_of_many_rules_records_32_and_the_last_decides_all_the_same():
    recorded = HEADER
    notes = {}
    load, store = "R1 = *(u8 *)(R9 + 108) /* state->rules_hit */", "*(u8 *) (R9 + 108) /* state->rules_hit */ = R2"
    for number in range(40):
        start = len(recorded)
        notes |= {start: ((), load), start + 4: ((), store)}
        recorded += (
            (0x71, 1, 9, 108, 0),
            (0x35, 1, 0, 9, 32),
            (0xBF, 2, 1, 0, 0),
            (0x07, 2, 0, 0, 1),
            (0x73, 9, 2, 108, 0),
            (0x67, 1, 0, 0, 3),
            (0x07, 1, 0, 0, 112),
            (0x18, 2, 0, 0, number + 1),
            (0x00, 0, 0, 0, 0),
            (0x0F, 1, 9, 0, 0),
            (0x7B, 1, 2, 0, 0),
        )
    found = execute(*recorded, R0, EXIT, notes=notes, packet={"rules_hit": bytes(1)})
    assert tuple(range(1, 33)) == found.rule_ids
