"""The operations of a pickle, counted and checked before the first one runs.

In: bytes. Out: where the pickle ends, or Refused. Only the standard library: the child process uses it. Arguments are stepped
over, not read: pickletools.genops, which reads them, took four times as long, and longer than the unpickler itself.
"""

from __future__ import annotations

import pickletools

from pretrain.base.weight_files.pickle_records import Refused

MAX_OPCODES = 1_000_000  # a ResNet-152 with its optimizer has some 60 thousand
MAX_MEMO = 1_000_000  # the unpickler allocates its memo up to the highest index that a file names
REFUSED_OPCODES = frozenset(
    ("PERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER")
)
OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# What follows an opcode: a fixed number of bytes (0 or more), or one of pickletools' negative numbers for what has a length.
ARGUMENTS = {code: opcode.arg.n if opcode.arg else 0 for code, opcode in OPCODES.items()}
LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
TWO_LINES = frozenset(code for code, opcode in OPCODES.items() if opcode.name in ("GLOBAL", "INST"))
REFUSED_CODES = frozenset(code for code, opcode in OPCODES.items() if opcode.name in REFUSED_OPCODES)
PUT, LONG_BINPUT, STOP = b"p"[0], b"r"[0], b"."[0]


def check_operations(content: bytes, start: int = 0) -> int:
    """Count and check every operation from `start` to the end of the pickle, without running any. Returns where it ends.

    Raises Refused; IndexError or ValueError for one that is cut short.
    """
    at = start
    for _ in range(MAX_OPCODES):
        code = content[at]
        at += 1
        if code in REFUSED_CODES:
            raise Refused(f"the pickle uses {OPCODES[code].name}, which weights do not need")
        if code not in ARGUMENTS:
            raise Refused(f"byte {at - 1} of the pickle, {code:#04x}, is no operation; it is damaged")
        size = ARGUMENTS[code]
        if code == LONG_BINPUT:
            _check_memo(int.from_bytes(content[at : at + 4], "little"))
        if size >= 0:
            at += size
        elif size == pickletools.UP_TO_NEWLINE:
            end = content.index(b"\n", at)
            if code == PUT:
                _check_memo(int(content[at:end]))
            at = (content.index(b"\n", end + 1) if code in TWO_LINES else end) + 1
        else:
            width = LENGTHS[size]
            length = int.from_bytes(content[at : at + width], "little")
            at += width + length
        if code == STOP:
            return at
    raise Refused(f"the pickle has more than {MAX_OPCODES} operations")


def _check_memo(index: int) -> None:
    if index >= MAX_MEMO:
        raise Refused(f"the pickle numbers an object {index}; at most {MAX_MEMO} are kept")
