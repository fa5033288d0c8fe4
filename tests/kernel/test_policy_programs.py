"""The interpreter of policy programs against the kernel: the same code, run by both on the same packet.

The programs are loaded by this test into maps of its own and run with BPF_PROG_TEST_RUN.
"""

import struct
from collections import Counter

import pytest
from hypothesis import given, settings

from exporter.calico import policy_program
from exporter.calico.ip_sets import ip_set_trie
from exporter.calico.policy_file import Instruction
from exporter.calico.policy_program import Machine, program_of
from tests.kernel.bpf_programs import ARRAY, LPM_TRIE, Maker, Refused, execute, get, put
from tests.kernel.random_programs import OPCODES, REGISTERS, STATE_SIZE, assemble, programs

pytestmark = pytest.mark.kernel

EXAMPLES = 1000
MEMBERS = [(32, "0a000001"), (24, "0a000100"), (16, "c0a80000")]
KEYS = [
    struct.pack("<I", 64 + bits) + struct.pack(">Q", 1) + bytes.fromhex(address) + bytes(4) for bits, address in MEMBERS
]
ZERO = bytes(4)


@pytest.fixture(scope="module")
def maps(machine):
    with Maker() as made:
        sets = made.map(LPM_TRIE, 20, 4, 100)
        for key in KEYS:
            put(sets, key, ZERO)
        yield made.map(ARRAY, 4, STATE_SIZE, 1), sets


def interpreted(code, state):
    """The state after the interpreter has run it, and the opcodes that it met."""
    instructions = [Instruction(code[place : place + 8], (), (), "") for place in range(0, len(code), 8)]
    ours = Machine(program_of(instructions, xdp=False), ip_set_trie(KEYS).__contains__)
    ours.memory = {policy_program._STATE + place: byte for place, byte in enumerate(state)}
    ours.run()
    after = bytes(ours.memory[policy_program._STATE + place] for place in range(STATE_SIZE))
    return after, {instructions[place].code[0] for place in ours.path}


def test_random_programs_leave_the_same_registers_and_state(maps, record_property):
    state_map, sets = maps
    seen, met, count = set(), set(), Counter()

    @settings(max_examples=EXAMPLES)
    @given(programs())
    def check(given_program):
        code = assemble(*given_program, state_map, sets)
        count["all"] += 1
        state = bytes(number * 7 % 256 for number in range(STATE_SIZE))
        put(state_map, ZERO, state)
        with Maker() as made:
            try:
                program = made.load(code)
            except Refused as error:
                count["refused"] += 1
                count[str(error).strip().splitlines()[-2:][0][:60]] += 1
                return
            assert 2 == execute(program)
        kernels = get(state_map, ZERO, STATE_SIZE)
        ours, opcodes = interpreted(code, state)
        assert kernels[REGISTERS:] == ours[REGISTERS:]
        assert kernels == ours
        seen.update(code[place] for place in range(0, len(code), 8))
        met.update(opcodes)

    check()
    accepted = 1 - count["refused"] / count["all"]
    record_property("programs accepted by the verifier", f"{accepted:.1%} of {count['all']}")
    assert accepted >= 0.9, count
    assert OPCODES <= met | {0}, sorted(map(hex, OPCODES - met))
