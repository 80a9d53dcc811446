"""Nothing that a file can call makes more memory than its arguments have, or takes what it should not."""

from __future__ import annotations

import pytest

from pretrain.base.weight_files.pickle_records import (
    Array,
    ArrayType,
    Name,
    Rebuild,
    Record,
    Refused,
    Table,
    TensorRecord,
    byte_array,
    encode_text,
    named_tuple,
    path_text,
    sequence,
)


@pytest.mark.parametrize("value", [1 << 40, -1, 2.5, None])
def test_a_bytearray_is_never_made_of_a_number(value):
    with pytest.raises((Refused, TypeError)):
        byte_array(value)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_a_sequence_is_made_of_a_sequence_only(kind):
    assert sequence(kind)([1, 2]) == kind([1, 2]) and sequence(kind)() == kind()
    for value in (range(1 << 40), iter(()), 5, "text"):
        with pytest.raises(Refused):
            sequence(kind)(value)


def test_text_is_encoded_as_latin1_only():
    assert encode_text("\xff", "latin1") == b"\xff"
    for text, encoding in (("a", "zip"), ("a", "rot13"), (b"a", "latin1")):
        with pytest.raises(Refused):
            encode_text(text, encoding)


@pytest.mark.parametrize("text", ["O8", "O", "V16", "M8", "S10", "i4,f8", "c16", 5, None, [("a", "f4")]])
def test_arrays_are_of_numbers_only(text):
    with pytest.raises(Refused):
        ArrayType(text)


def test_a_record_keeps_what_it_is_given_and_sets_nothing():
    record = Record.__new__(Record)
    record.__setstate__({"__class__": 1, "lr": 2})
    assert record.fields == {"__class__": 1, "lr": 2} and type(record) is Record


@pytest.mark.parametrize("target", [Table, Array, Record, Rebuild(len), Name("x"), named_tuple("a")])
def test_classes_and_functions_cannot_be_written_to(target):
    with pytest.raises(Refused):
        target.__init__ = None


def test_a_tensor_is_built_from_a_storage_only():
    with pytest.raises(Refused):
        TensorRecord([1, 2], 0, (2,), (1,))


def test_a_named_tuple_becomes_its_fields():
    assert named_tuple("mu", "nu")(1, 2) == {"mu": 1, "nu": 2}
    with pytest.raises(ValueError, match="shorter|longer"):
        named_tuple("mu", "nu")(1)


def test_a_path_is_text():
    assert path_text("/", "a") == "//a"
    with pytest.raises(Refused):
        path_text(b"a")
