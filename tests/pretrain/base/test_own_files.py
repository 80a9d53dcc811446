"""Files of our own: torch's reader behind the checksums that it does not look at; whatever is wrong is one kind of error."""

from __future__ import annotations

import pickle

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.own_files import read_own_file


@pytest.fixture
def saved(tmp_path):
    torch.save({"step": 3, "w": torch.arange(1000.0)}, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_the_content_is_in_memory_and_survives_the_file(saved):
    found = read_own_file(saved)
    saved.write_bytes(b"")
    assert found["step"] == 3 and torch.equal(found["w"], torch.arange(1000.0))


def test_one_flipped_bit_of_a_tensor_is_found(saved):
    data = bytearray(saved.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 401] ^= 1
    saved.write_bytes(data)
    assert not torch.equal(
        torch.load(saved, weights_only=True)["w"], torch.arange(1000.0)
    )  # control: torch says nothing
    with pytest.raises(CheckpointError, match=r"damaged: the checksum of state/data/0"):
        read_own_file(saved)


def test_every_cut_is_found(saved):
    whole = saved.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cut short"):
            read_own_file(saved)


def test_absent_foreign_and_malicious_files_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no file at"):
        read_own_file(tmp_path / "absent.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(CheckpointError, match="not written by this program"):
        read_own_file(tmp_path / "pickle.pt")

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not written by this program"):
        read_own_file(tmp_path / "evil.pt")
    assert not (tmp_path / "canary").exists()
