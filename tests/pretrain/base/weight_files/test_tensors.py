"""A plan is not believed: a tensor lies inside its storage or nothing is returned. Tensors cost no memory until used."""

from __future__ import annotations

import tempfile

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import build

DATA = torch.arange(16.0)


def made(tensors, tree=("tensor", 0), places=None, data=None):
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        file.write(b"x" * 64 + DATA.numpy().tobytes() if data is None else data)
        file.flush()
        blob.write(DATA.numpy().tobytes())
        blob.flush()
        return build({"tree": list(tree), "tensors": tensors, "objects": []}, places or {"0": (64, 64)}, file, blob)


def stored(*, offset=0, size=(16,), stride=(1,), numel=16, dtype="float32", key="0"):
    return [key, "float32", dtype, numel, offset, list(size), list(stride)]


def test_views_of_one_storage_share_its_bytes():
    content = made(
        [stored(), stored(offset=4, size=(2, 3), stride=(6, 2))], tree=("list", [["tensor", 0], ["tensor", 1]])
    )
    whole, part = content
    assert torch.equal(whole, DATA) and torch.equal(part, DATA.as_strided((2, 3), (6, 2), 4))
    whole[4] = -1  # private pages: this process's copy changes, the file does not
    assert part[0, 0] == -1


@pytest.mark.parametrize("key", ["0", [0, 64]], ids=["of the file", "of a pickled array"])
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(key):
    assert torch.equal(made([stored(key=key)]), DATA)
    for wrong in (
        {"size": (17,)},
        {"offset": 1},
        {"offset": -1, "size": (1,)},
        {"offset": 16, "size": (1,)},
        {"stride": (2,)},
        {"stride": (-1,), "offset": 15},
        {"size": (-1,)},
        {"size": (10**9,), "stride": (0,)},
        {"size": (2, 10**6), "stride": (0, 0)},
        {"size": (1 << 40, 1 << 40), "stride": (1, 1)},
        {"size": (4, 4), "stride": (1,)},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"numel": 15},
        {"numel": 10**9},
        {"key": "1"},
        {"key": [32, 64]},
        {"key": [-4, 64]},
    ):
        with pytest.raises(CheckpointError):
            made([stored(**{"key": key, **wrong})])


def test_a_storage_outside_the_file_is_refused():
    with pytest.raises(CheckpointError, match="outside the file"):
        made([stored()], places={"0": (96, 64)})


def test_tensors_that_together_are_far_larger_than_the_file_are_refused():
    with pytest.raises(CheckpointError, match="16 times as large"):
        made([stored() for _ in range(200)])


def test_bytes_that_do_not_begin_on_an_elements_border_are_copied():
    assert torch.equal(made([stored()], places={"0": (3, 64)}, data=b"abc" + DATA.numpy().tobytes()), DATA)
