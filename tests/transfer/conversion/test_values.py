"""Weights leave as contiguous float32; what is not finite, or no float, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import TorchFile
from tests.cases import each
from transfer.conversion.values import as_float32, check_values, type_notes

PATH = Path("x.pth")


def test_only_what_must_change_is_copied():
    whole = torch.randn(6)
    tensors = {
        "same": torch.randn(2, 3),
        "half": torch.ones(2).half(),
        "turned": torch.randn(2, 3).t(),
        "part": whole[2:4],
    }
    found = as_float32(tensors, PATH)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in found.values())
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in tensors.items())
    assert [name for name in tensors if found[name].data_ptr() == tensors[name].data_ptr()] == ["same"]
    assert found["part"].untyped_storage().nbytes() == 8, "a view must not drag its whole storage along"


def test_whole_numbers_are_no_weights():
    with pytest.raises(CheckpointError, match=r"x\.pth: expected floating-point weights, found torch\.int64"):
        as_float32({"a": torch.arange(3)}, PATH)


@each("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_and_large_ones_are_not(value):
    large = torch.full((4,), 3e38)  # their sum overflows
    check_values(TorchFile({}), (), {"a": large}, PATH)
    with pytest.raises(CheckpointError, match="NaN or infinity in the weights; 1 tensors: b"):
        check_values(TorchFile({}), (), {"a": large, "b": torch.tensor([1.0, value])}, PATH)


def test_checksums_come_before_values():
    def verify(tensors):
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        check_values(TorchFile({}, verify=verify), (), {"a": torch.tensor([float("nan")])}, PATH)


def test_other_types_are_named():
    notes = type_notes({"a": torch.ones(1), "b": torch.ones(1).half(), "c": torch.ones(1).double()})
    assert len(notes) == 2 and "float16; converted to float32, exactly" in notes[0] and "rounded" in notes[1]
