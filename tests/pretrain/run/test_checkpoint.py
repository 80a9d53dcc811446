"""Checkpoints: atomic, verified, and never silently from scratch."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.run import checkpoint as checkpoint_module
from pretrain.run.checkpoint import (
    checkpoint_path,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    warning_of_space,
    write_checkpoint,
)
from tests.cases import each


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


@each("size", [0, 100, 20000])
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


@contextmanager
def files_end_at(size):
    """A disk that is full after `size` bytes of a file. Python ignores the signal that comes with the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk_sizes(path):
    """50 lengths from nothing to one byte too few."""
    whole = path.stat().st_size
    return sorted({round(part * (whole - 1) / 49) for part in range(50)})


def test_a_disk_full_at_any_of_50_sizes_costs_no_checkpoint(tmp_path):
    write_checkpoint(checkpoint_path(tmp_path, 1), state(1))
    before = checkpoint_path(tmp_path, 1).read_bytes()
    sizes = full_disk_sizes(checkpoint_path(tmp_path, 1))
    for size in sizes:
        for step in (1, 2):  # over the only one there is, and beside it
            with (
                files_end_at(size),
                pytest.raises(CheckpointError, match="File too large; what was saved before is un"),
            ):
                write_checkpoint(checkpoint_path(tmp_path, step), state(step + 10))
            assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
            assert checkpoint_path(tmp_path, 1).read_bytes() == before
    assert len(sizes) == 50 and (sizes[0], sizes[-1]) == (0, len(before) - 1)
    write_checkpoint(checkpoint_path(tmp_path, 2), state(2))  # control: with room it is written
    assert newest_checkpoint(tmp_path, quarantine=False)[0].name == "step_00000002.pt"


def test_control_a_plain_save_loses_the_checkpoint_at_each_of_these_sizes(tmp_path):
    path, lost = tmp_path / "current.pt", 0
    write_checkpoint(path, state(1))
    content, whole, sizes = read_checkpoint(path), path.read_bytes(), full_disk_sizes(path)
    for size in sizes:
        path.write_bytes(whole)
        with files_end_at(size), pytest.raises((OSError, RuntimeError)):
            torch.save(content, path)
        try:
            read_checkpoint(path)
        except CheckpointError:
            lost += 1
    assert lost == len(sizes) == 50


def test_a_disk_that_does_not_give_back_what_was_written_is_found_before_the_name_is_given(tmp_path, monkeypatch):
    write_checkpoint(checkpoint_path(tmp_path, 1), state(1))
    sync = os.fsync

    def rot(descriptor):
        """A bit of the temporary file turns on its way to the disk."""
        sync(descriptor)
        for path in tmp_path.glob(".*.tmp"):
            data = bytearray(path.read_bytes())
            data[data.index(torch.arange(5000.0).add(2).numpy().tobytes()[:64]) + 40] ^= 1
            path.write_bytes(bytes(data))

    monkeypatch.setattr(os, "fsync", rot)
    with pytest.raises(CheckpointError, match="what the disk gives back is not what was written .*is damaged"):
        write_checkpoint(checkpoint_path(tmp_path, 2), state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    monkeypatch.setattr(checkpoint_module, "check_own_file", lambda path: None)
    write_checkpoint(checkpoint_path(tmp_path, 2), state(2))  # control: nothing else would have noticed
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(checkpoint_path(tmp_path, 2))


def test_a_value_that_is_not_finite_is_not_saved_wherever_it_is(tmp_path):
    write_checkpoint(checkpoint_path(tmp_path, 1), state(1))
    poisoned = state(2)
    poisoned["optimizer"] = {"state": {0: {"momentum_buffer": torch.tensor([1.0, float("inf")])}}}
    with pytest.raises(CheckpointError, match=r"not finite \(optimizer\.state\.0\.momentum_buffer\)"):
        write_checkpoint(checkpoint_path(tmp_path, 2), poisoned)
    assert newest_checkpoint(tmp_path, quarantine=False)[1]["progress"] == {"step": 1}
    large = state(2)
    large["model"] = {"weight": torch.full((4,), 3e38), "count": torch.tensor(3)}  # its sum is not finite, it is
    write_checkpoint(checkpoint_path(tmp_path, 2), large)


def test_a_disk_too_small_for_the_run_is_told_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 0, 60_000))
    assert warning_of_space(tmp_path, state(), to_come=3) is None  # 20,000 bytes each
    assert "the 4 checkpoints that this run is yet to keep" in warning_of_space(tmp_path, state(), to_come=4)


@pytest.mark.parametrize("place", ["save", "check_own_file"])
def test_a_loader_process_that_is_lost_during_a_save_is_not_blamed_on_the_disk(tmp_path, monkeypatch, place):
    """torch's handler of SIGCHLD raises in the middle of whatever the main process does."""

    def lost(*_):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError:
            if place == "save":
                raise
            raise CheckpointError("cut short, damaged or not written by this program") from None

    monkeypatch.setattr(torch if place == "save" else checkpoint_module, place, lost)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        checkpoint_module.write_state(tmp_path / "state.pt", {}, kind=checkpoint_module.CHECKPOINT)
    assert list(tmp_path.iterdir()) == []
