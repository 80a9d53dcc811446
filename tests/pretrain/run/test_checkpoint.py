"""Checkpoints: atomic, verified, and never silently from scratch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.run.checkpoint import (
    checkpoint_path,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    write_checkpoint,
)


def state(step=1):
    return {
        "arch": "resnet18",
        "method": "infomin",
        "contract": {},
        "model": {"weight": torch.arange(5000.0) + step},
        "optimizer": {},
        "scaler": {},
        "progress": {"step": step},
        "config": {},
    }


def test_a_checkpoint_reads_back_as_written(tmp_path):
    path = checkpoint_path(tmp_path, 7)
    write_checkpoint(path, state(7))
    back = read_checkpoint(path)
    assert torch.equal(back["model"]["weight"], state(7)["model"]["weight"])
    assert back["progress"] == {"step": 7}
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_00000007.pt"]


def test_a_flipped_bit_is_found_where_torch_alone_reads_on(tmp_path):
    path = tmp_path / "step_00000001.pt"
    write_checkpoint(path, state())
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(5000.0).add(1).numpy().tobytes()[:64]) + 40] ^= 1
    path.write_bytes(bytes(data))
    torch.load(path, weights_only=True)  # control: a wrong weight and no error
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [0, 100, 20000])
def test_a_truncated_checkpoint_is_refused(tmp_path, size):
    path = tmp_path / "step_00000001.pt"
    write_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="not a readable checkpoint of"):
        read_checkpoint(path)


def test_a_damaged_newest_is_set_aside_and_the_one_before_taken(tmp_path, caplog):
    write_checkpoint(checkpoint_path(tmp_path, 1), state(1))
    write_checkpoint(checkpoint_path(tmp_path, 2), state(2))
    checkpoint_path(tmp_path, 2).write_bytes(b"")
    path, found = newest_checkpoint(tmp_path, quarantine=True)
    assert (path.name, found["progress"]["step"]) == ("step_00000001.pt", 1)
    assert (tmp_path / "step_00000002.pt.damaged").exists()
    assert "taking the one before" in caplog.text


def test_all_damaged_is_an_error_and_none_at_all_is_a_start(tmp_path):
    assert newest_checkpoint(tmp_path, quarantine=True) is None
    checkpoint_path(tmp_path, 2).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        newest_checkpoint(tmp_path, quarantine=True)


def test_a_failed_write_leaves_the_old_checkpoint_and_no_stump(tmp_path, monkeypatch):
    path = checkpoint_path(tmp_path, 1)
    write_checkpoint(path, state(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_checkpoint(path, state(2))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert read_checkpoint(path)["progress"]["step"] == 1


def test_another_file_of_torch_is_named_as_such(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of tools/pretrain\.py"):
        read_checkpoint(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(Path(tmp_path / "absent.pt"))


def test_pruning_keeps_the_newest_two_and_the_milestones(tmp_path):
    for step in range(1, 7):
        write_checkpoint(checkpoint_path(tmp_path, step), state(step))
    prune_checkpoints(tmp_path, keep_steps={2})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step_0000000{i}.pt" for i in (2, 5, 6)]


def test_a_full_disk_is_called_that_and_not_what_torch_makes_of_it(tmp_path, monkeypatch):
    def save(*arguments):  # as torch.save does where a write of the file fails
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598") from None

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError, match="No space left on device; what was saved before is untouched"):
        write_checkpoint(checkpoint_path(tmp_path, 1), state())
