"""A plan is not believed: a tensor lies inside its storage or nothing is returned. Tensors cost no memory until used."""

from __future__ import annotations

import tempfile

import pytest
import torch

from pretrain.base.weight_files.tensor_plan import PlanError, build

DATA = torch.arange(16.0)


def made(tensors, tree=("tensor", 0), places=None, data=None):
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        file.write(b"x" * 64 + DATA.numpy().tobytes() if data is None else data)
        file.flush()
        blob.write(DATA.numpy().tobytes())
        blob.flush()
        return build({"tree": list(tree), "tensors": tensors}, places or {"0": (64, 64)}, file, blob)


def stored(*, offset=0, size=(16,), stride=(1,), numel=16, dtype="float32", key="0"):
    return ["storage", key, "float32", dtype, numel, offset, list(size), list(stride)]


def test_views_of_one_storage_share_its_bytes():
    content = made(
        [stored(), stored(offset=4, size=(2, 3), stride=(6, 2))], tree=("list", [["tensor", 0], ["tensor", 1]])
    )
    whole, part = content
    assert torch.equal(whole, DATA) and torch.equal(part, DATA.as_strided((2, 3), (6, 2), 4))
    whole[4] = -1  # private pages: this process's copy changes, the file does not
    assert part[0, 0] == -1


@pytest.mark.parametrize(
    "tensor",
    [
        stored(size=(17,)),
        stored(offset=1),
        stored(offset=-1, size=(1,)),
        stored(offset=16, size=(1,)),
        stored(stride=(2,)),
        stored(stride=(-1,), offset=15),
        stored(size=(-1,)),
        stored(size=(10**9,), stride=(0,)),
        stored(size=(2, 10**6), stride=(0, 0)),
        stored(size=(1 << 40, 1 << 40), stride=(1, 1)),
        stored(size=(4, 4), stride=(1,)),
        stored(size=(1,) * 40, stride=(1,) * 40),
        stored(numel=15),
        stored(numel=10**9),
        stored(key="1"),
    ],
)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(tensor):
    with pytest.raises(PlanError):
        made([tensor])


def test_a_storage_outside_the_file_is_refused():
    with pytest.raises(PlanError, match="outside the file"):
        made([stored()], places={"0": (96, 64)})


def test_tensors_that_together_are_far_larger_than_the_file_are_refused():
    with pytest.raises(PlanError, match="16 times as large"):
        made([stored() for _ in range(200)])


def test_bytes_that_do_not_begin_on_an_elements_border_are_copied():
    assert torch.equal(made([stored()], places={"0": (3, 64)}, data=b"abc" + DATA.numpy().tobytes()), DATA)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["array", 0, "f4", [4, 4], False], DATA.view(4, 4)),
        (["array", 0, "f4", [2, 8], True], DATA.view(8, 2).T),
        (["array", 0, "f4", [], False], DATA[0]),
        (["array", 0, ">i2", [1], False], torch.tensor([0], dtype=torch.int16)),
        (["array", 4, ">u1", [4], False], torch.tensor([0, 0, 128, 63], dtype=torch.uint8)),
    ],
)
def test_pickled_arrays_keep_order_and_endianness(told, expected):
    found = made([told])
    assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_big_endian_values_are_those_of_numpy():
    value = DATA.numpy().astype(">f4")
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        blob.write(value.tobytes())
        blob.flush()
        assert torch.equal(
            build({"tree": ["tensor", 0], "tensors": [["array", 0, ">f4", [16], False]]}, {}, file, blob), DATA
        )


@pytest.mark.parametrize(
    "told", [["array", 0, "f4", [17], False], ["array", 0, "f4", [-1], False], ["array", -4, "f4", [1], False]]
)
def test_an_array_outside_its_bytes_is_refused(told):
    with pytest.raises(PlanError):
        made([told])
