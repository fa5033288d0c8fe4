"""Runs a policy program on a packet: verdict, rule ids and path out.

Knows the subset of BPF that Felix emits (felix/bpf/asm, felix/bpf/polprog/pol_prog_builder.go), and nothing of rules or
files. What is not certain ends with `NotKnown`: another instruction, another helper, bytes that nothing has written.

The packet is in the program's state, at R9. The first map that a program loads is the state's; others that it looks up
are IP sets. The programs of a large policy share the state alone.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exporter.calico.policy_program import ALLOW, DENY, NO_MATCH, NotKnown, Program

MAX_STEPS = 1_000_000  # the verifier's own limit
MAX_RULE_IDS = 32  # that the state can hold

# Addresses of this machine; no program can compute one from another.
_STACK, _STATE, _CONTEXT, _MEMBER, _MAPS = 1 << 32, 2 << 32, 3 << 32, 4 << 32, 5 << 32
_STACK_SIZE, _STATE_SIZE = 512, 512
_CB = 48  # offset of skb->cb: the programs to call to allow and to deny
_INDEXES = {0xFFFFFF01: ALLOW, 0xFFFFFF02: DENY}
_RESULTS = {ALLOW: 1, DENY: 2}  # enum calico_policy_result
_XDP_RESULTS = {1: DENY, 2: NO_MATCH}  # XDP_DROP, XDP_PASS
_TC_RESULTS = {2: DENY}  # TC_ACT_SHOT
_U64 = (1 << 64) - 1


@dataclass(slots=True)
class Result:
    """How a program ended: the verdict, the ids that it recorded, and the instructions executed, as indexes."""

    verdict: str
    rule_ids: tuple[int, ...]
    path: list[int]


def run(
    program: Program, packet: Mapping[str, bytes], in_ip_set: Callable[[bytes], bool], max_steps: int = MAX_STEPS
) -> Result:
    """Runs the program on the packet whose state has these fields; `in_ip_set` looks a key up in the IP-set map.

    Raises `NotKnown`, also after `max_steps` steps.
    """
    machine = Machine(program, in_ip_set, max_steps)
    for name, offset in program.fields.items():
        for number, byte in enumerate(packet.get(name, b"")):
            machine.memory[_STATE + offset + number] = byte
    verdict = machine.run()
    if machine.memory.get(_STATE + program.fields.get("rules_hit", _STATE_SIZE), 0) != len(machine.rule_ids):
        raise NotKnown("the program recorded rules in a way that is not known")
    return Result(verdict, tuple(machine.rule_ids), machine.path)


# By the upper 4 bits of the opcode.
_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: operator.lshift,
    0x70: operator.rshift,
    0xA0: operator.xor,
    0xC0: operator.rshift,
}
_MOVE, _SHIFTS, _SIGNED_SHIFT = 0xB0, (0x60, 0x70, 0xC0), 0xC0
_JUMPS: dict[int, Callable[[int, int], int]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
    0x40: operator.and_,
    0x50: operator.ne,
    0x60: operator.gt,
    0x70: operator.ge,
    0xA0: operator.lt,
    0xB0: operator.le,
    0xC0: operator.lt,
    0xD0: operator.le,
}
_SIGNED_JUMPS = (0x60, 0x70, 0xC0, 0xD0)
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
_BYTE_SWAPS = (16, 32, 64)


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> bits - 1 else number


@dataclass(slots=True)
class Machine:
    """Registers and memory while a program runs; what has no value is absent."""

    program: Program
    in_ip_set: Callable[[bytes], bool]
    max_steps: int = MAX_STEPS
    registers: dict[int, int] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)  # a byte each
    rule_ids: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    part: int = 0
    place: int = 0
    jump: tuple[str, int] = ("", -1)
    state_map: int = -1
    verdict: str = ""

    def run(self) -> str:
        """Executes the program to its end. Raises `NotKnown`."""
        self._start_part(0)
        code, jumps = self.program.code, self.program.jumps
        while not self.verdict:
            if not 0 <= self.place < len(code):
                raise self._unknown("a jump leaves the program")
            if len(self.path) >= self.max_steps:
                raise NotKnown(f"the program did not end after {self.max_steps} steps")
            self.path.append(self.place)
            self.jump = jumps.get(self.place, self.jump)
            self._step(*code[self.place])
        return self.verdict

    def _start_part(self, number: int) -> None:
        """Starts a program of the policy: neither registers nor the stack come with it, the state does."""
        if number >= len(self.program.parts):
            raise self._unknown("it continues in a program that the file does not have")
        self.part, self.place = number, self.program.parts[number]
        self.registers = {1: _CONTEXT, 10: _STACK + _STACK_SIZE}
        self.memory = {place: byte for place, byte in self.memory.items() if place >= _STATE}
        for index, sentinel in enumerate(_INDEXES):
            for offset, byte in enumerate(sentinel.to_bytes(4, "little"), _CB + 4 * index):
                self.memory[_CONTEXT + offset] = byte
        self.state_map = -1

    def _step(self, opcode: int, to: int, source: int, offset: int, immediate: int) -> None:
        kind, self.place = opcode & 7, self.place + 1
        if kind in (4, 7) and offset == 0:
            self._alu(opcode, to, source, immediate)
        elif kind in (5, 6) and opcode not in (0x85, 0x95):
            if opcode == 0x05 or self._holds(opcode, to, source, immediate):
                self.place += offset
        elif opcode & 0xE7 == 0x61:
            self.registers[to] = self._load(self._read(source) + offset, _SIZES[opcode & 0x18])
        elif opcode & 0xE7 == 0x63:
            self._store(self._read(to) + offset, _SIZES[opcode & 0x18], self._read(source))
        elif opcode == 0x18:
            self._load_immediate(to, source, immediate)
        elif opcode == 0x85 and source == 0:
            self._call(immediate)
        elif opcode == 0x95:
            self._exit()
        else:
            raise self._unknown(f"opcode {opcode:#04x} is not known")

    def _read(self, register: int) -> int:
        if register not in self.registers:
            raise self._unknown(f"register {register} has no value")
        return self.registers[register]

    def _second(self, opcode: int, source: int, immediate: int, bits: int) -> int:
        return (self._read(source) if opcode & 8 else immediate) & (1 << bits) - 1

    def _alu(self, opcode: int, to: int, source: int, immediate: int) -> None:
        if to >= 10:
            raise self._unknown(f"register {to} cannot be written")
        if opcode in (0xD4, 0xDC) and immediate in _BYTE_SWAPS:
            low = (self._read(to) & (1 << immediate) - 1).to_bytes(immediate // 8, "little")
            self.registers[to] = int.from_bytes(low, "big" if opcode & 8 else "little")
            return
        bits, kind = 64 if opcode & 7 == 7 else 32, opcode & 0xF0
        other = self._second(opcode, source, immediate, bits)
        if kind != _MOVE:
            if kind not in _ALU:
                raise self._unknown(f"opcode {opcode:#04x} is not known")
            one = self._read(to) & (1 << bits) - 1
            one = _signed(one, bits) if kind == _SIGNED_SHIFT else one
            other = _ALU[kind](one, other & bits - 1 if kind in _SHIFTS else other)
        self.registers[to] = other & (1 << bits) - 1

    def _holds(self, opcode: int, to: int, source: int, immediate: int) -> bool:
        bits, kind = 64 if opcode & 7 == 5 else 32, opcode & 0xF0
        if kind not in _JUMPS:
            raise self._unknown(f"opcode {opcode:#04x} is not known")
        one, other = self._read(to) & (1 << bits) - 1, self._second(opcode, source, immediate, bits)
        if kind in _SIGNED_JUMPS:
            one, other = _signed(one, bits), _signed(other, bits)
        return bool(_JUMPS[kind](one, other))

    def _load(self, place: int, size: int) -> int:
        try:
            return int.from_bytes(bytes([self.memory[place + number] for number in range(size)]), "little")
        except KeyError:
            raise self._unknown(f"it reads {self._name(place)}, which has no value here") from None

    def _store(self, place: int, size: int, value: int) -> None:
        in_stack = _STACK <= place <= _STACK + _STACK_SIZE - size
        in_state = _STATE <= place <= _STATE + _STATE_SIZE - size
        if not in_stack and not in_state:
            raise self._unknown("it writes outside of its stack and its state")
        # Nothing else of this size is written to the state, but for the flags that a rule of action log sets.
        if in_state and size == 8 and place - _STATE != self.program.fields.get("flags"):
            self.rule_ids.append(value)
        for number, byte in enumerate((value & (1 << 8 * size) - 1).to_bytes(size, "little")):
            self.memory[place + number] = byte

    def _load_immediate(self, to: int, source: int, low: int) -> None:
        opcode, _, _, _, high = self.program.code[self.place] if self.place < len(self.program.code) else (-1,) * 5
        if opcode != 0 or source not in (0, 1):
            raise self._unknown("a load of 64 bits is not known")
        self.path.append(self.place)
        self.place += 1
        self.registers[to] = (high << 32 | low & 0xFFFFFFFF) & _U64 if source == 0 else _MAPS + low
        if source == 1 and self.state_map < 0:
            self.state_map = _MAPS + low

    def _call(self, helper: int) -> None:
        if helper == 1:
            result = self._look_up(self._read(1), self._read(2))
        elif helper == 12:
            self._tail_call(self._read(3) & 0xFFFFFFFF)
            return
        else:
            raise self._unknown(f"helper {helper} is not known")
        for register in range(1, 6):
            self.registers.pop(register, None)
        self.registers[0] = result

    def _look_up(self, map_number: int, key: int) -> int:
        if map_number == self.state_map:
            if self._load(key, 4):
                raise self._unknown("it looks up an entry of the state map that is not the packet's")
            return _STATE
        if map_number < _MAPS:
            raise self._unknown("it looks up something that is no map")
        bits = self._load(key, 4)
        content = bytes(self._load(key + 4 + number, 1) for number in range((bits + 7) // 8))
        return _MEMBER if self.in_ip_set(bits.to_bytes(4, "little") + content) else 0

    def _tail_call(self, index: int) -> None:
        word, number = self.jump
        verdict = _INDEXES.get(index) or (word if index == number else "")
        if verdict:
            if self._load(_STATE + self.program.fields.get("pol_rc", _STATE_SIZE), 4) != _RESULTS[verdict]:
                raise self._unknown(f"it goes to {verdict} with another result in the state")
            self.verdict = verdict
        elif index == number and not word:
            self._start_part(self.part + 1)
        else:
            raise self._unknown("it calls a program that nothing names")

    def _exit(self) -> None:
        verdict = (_XDP_RESULTS if self.program.xdp else _TC_RESULTS).get(self._read(0))
        if verdict is None:
            raise self._unknown(f"its result {self._read(0)} is not known")
        self.verdict = verdict

    def _name(self, place: int) -> str:
        offset = place - _STATE
        names = [name for name, start in self.program.fields.items() if start <= offset]
        if not 0 <= offset < _STATE_SIZE or not names:
            return "memory"
        return f"state->{max(names, key=lambda name: self.program.fields[name])}"

    def _unknown(self, why: str) -> NotKnown:
        return NotKnown(f"the program cannot be followed at instruction {self.path[-1] if self.path else 0}: {why}")
