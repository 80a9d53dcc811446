"""What is read is what torch reads, for every kind of file; what is damaged is one kind of error."""

from __future__ import annotations

import argparse
import pickle
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files import torch_files
from pretrain.base.weight_files.torch_files import open_torch_file, read_torch_file


def contents() -> dict:
    """What training scripts save."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    shared = torch.randn(6)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared[2:4], torch.randn(4, 6)[:, ::2], torch.randn(3, 2).T],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "types": [
            torch.ones(3, dtype=d) for d in (torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
        ],
        "small": (torch.tensor(3), torch.zeros(0), torch.zeros(2, 0, 3)),
        "epoch": 7,
        "scalars": [None, True, -5, 1 << 70, 2.5, float("inf"), "text", b"\xff\x00", 1 + 2j],
        "tables": [OrderedDict(a=1), Counter("aab"), {1: 2, (3, 4): 5}, {6, 7}],
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
    }


def same(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        return torch.equal(found, wanted) and (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == wanted


@pytest.mark.parametrize("new", [True, False])
def test_everything_that_torch_reads_is_read_equal(tmp_path, new):
    path = tmp_path / "file.pth"
    torch.save(contents(), path, _use_new_zipfile_serialization=new)
    assert same(read_torch_file(path), torch.load(path, weights_only=True))


def test_more_records_than_torch_allows_are_read_as_plain_values(tmp_path):
    path = tmp_path / "file.pth"
    content = {
        "opt": argparse.Namespace(lr=0.1, steps=[1]),
        "table": defaultdict(list, {"a": [1]}),
        "best": np.float64(0.5),
    }
    torch.save({**content, "array": np.arange(4)}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_torch_file(path)
    assert (found["opt"].lr, found["table"], found["best"]) == (0.1, {"a": [1]}, 0.5)
    assert torch.equal(found["array"], torch.arange(4))


def test_tensors_lie_on_the_files_pages_and_writing_to_them_leaves_the_file_alone(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    before = path.read_bytes()
    found = read_torch_file(path)["w"]
    found.fill_(-1)
    path.unlink()  # the pages stay
    path.write_bytes(before)
    assert torch.equal(read_torch_file(path)["w"], torch.arange(1000.0)) and found.unique().tolist() == [-1]


def damaged(tmp_path):
    """A file with one flipped bit in `bad`, none in `good`."""
    path = tmp_path / "file.pth"
    good, bad = torch.arange(100.0), torch.arange(100.0) + 1000
    torch.save({"good": good, "bad": bad}, path)
    data = bytearray(path.read_bytes())
    data[data.index(bad.numpy().tobytes()) + 7] ^= 1
    path.write_bytes(bytes(data))
    assert not torch.equal(torch.load(path, weights_only=True)["bad"], bad)  # control: torch says nothing
    return path


def test_a_damaged_tensor_is_refused_when_all_are_read_or_when_it_is_used(tmp_path):
    path = damaged(tmp_path)
    with pytest.raises(CheckpointError, match="checksum of file/data/1"):
        read_torch_file(path)
    file = open_torch_file(path)
    file.verify([file.content["good"], file.content["good"][3:]])
    with pytest.raises(CheckpointError, match="checksum of file/data/1"):
        file.verify([file.content["bad"].view(10, 10).T])  # a view is still of this file


def test_a_copy_cannot_be_verified(tmp_path):
    path = damaged(tmp_path)
    file = open_torch_file(path)
    with pytest.raises(CheckpointError, match="copied before it was verified"):
        file.verify([file.content["bad"].clone()])


def test_a_damaged_pickle_is_refused_at_once(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.arange(3.0), "epoch": 77}, path)
    path.write_bytes(path.read_bytes().replace(b"epoch", b"epock"))
    with pytest.raises(CheckpointError, match="checksum of file/data.pkl"):
        open_torch_file(path)


def test_other_kinds_of_zip_are_named(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2), check_trace=False)
    module.save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript|no torch file"):
        read_torch_file(tmp_path / "script.pt")


def test_whatever_is_thrown_below_is_one_error_with_the_files_name(tmp_path, monkeypatch):
    path = tmp_path / "file.pth"
    torch.save({}, path)
    for error in (
        ValueError("a"),
        KeyError("b"),
        RuntimeError("c\nd"),
        OSError("e"),
        MemoryError(),
        RecursionError("f"),
    ):
        monkeypatch.setattr(torch_files, "read_records", lambda file, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(CheckpointError, match=r"cannot read .*file\.pth"):
            read_torch_file(path)


def test_absent_and_folder_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file"):
        read_torch_file(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_torch_file(tmp_path)


def test_a_file_saved_without_checksums_is_refused_with_what_to_do(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(CheckpointError, match="set_crc32_options"):
        read_torch_file(tmp_path / "file.pth")
    torch.save({"a": torch.ones(3)}, tmp_path / "file.pth")
    assert torch.equal(read_torch_file(tmp_path / "file.pth")["a"], torch.ones(3))
