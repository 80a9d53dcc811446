"""Operations are counted and found to end where Python's own pickletools says."""

from __future__ import annotations

import collections
import pickle
import pickletools

import pytest

from pretrain.base.weight_files import pickle_operations
from pretrain.base.weight_files.pickle_operations import check_operations
from pretrain.base.weight_files.pickle_records import Refused

EVERY_KIND = {
    "text": ["a\nb", "ä" * 300, b"bytes\n", b"x" * 300, 2**70, -(2**2100), -1, 1 << 20, 0.1, None, True],
    "containers": ({1, 2}, frozenset((3,)), (), (1,), (1, 2), (1, 2, 3), [[]], {}),
    "array": [1j, collections.OrderedDict(a=1), list(range(300)), bytearray(b"y")],
}


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_ends_where_pickletools_says(protocol):
    """Stepping over arguments against reading them; a byte more or less of any operation and the two part."""
    content = pickle.dumps(EVERY_KIND, protocol=protocol)
    assert check_operations(b"xx" + content + b"more", 2) == len(content) + 2
    assert sum(1 for _ in pickletools.genops(content)) > 100
    for end in range(len(content)):  # cut anywhere
        with pytest.raises((IndexError, ValueError)):
            check_operations(content[:end])


def test_operations_are_counted_as_pickletools_counts_them(monkeypatch):
    content = pickle.dumps(list(range(300)), protocol=2)
    count = sum(1 for _ in pickletools.genops(content))
    monkeypatch.setattr(pickle_operations, "MAX_OPCODES", count)
    check_operations(content)
    monkeypatch.setattr(pickle_operations, "MAX_OPCODES", count - 1)
    with pytest.raises(Refused, match=f"more than {count - 1} operations"):
        check_operations(content)
