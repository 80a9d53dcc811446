"""What write_torch_file writes is what torch.save writes; checksums are carried over, so damage on the way is found."""

from __future__ import annotations

import zlib
from copy import copy

import pytest
import torch

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import TorchFile, open_archive, open_torch_file, read_torch_file
from transfer.conversion.export_detectron2 import write
from transfer.conversion.sources import load_backbone
from transfer.conversion.write_torch import write_torch_file

TENSORS = {
    "matrix": torch.arange(12.0).view(3, 4),
    "large": torch.randn(600_000),  # more than one piece
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0),
}
TENSORS["again"] = TENSORS["matrix"]  # two names of one storage
ID = "archive/.data/serialization_id"  # torch hashes the checksums that it has seen: none


def records_of(path):
    content = path.read_bytes()
    archive, offsets = open_archive(path)
    sizes = {record.filename: (record.file_size, record.CRC) for record in archive.infolist()}
    return {
        name: (size, crc, zlib.crc32(content[offsets[name] : offsets[name] + size]))
        for name, (size, crc) in sizes.items()
        if name != ID
    }


def test_every_record_is_that_of_torch_save(tmp_path):
    content = {"model": TENSORS, "note": "x"}
    write_torch_file(tmp_path / "ours.pth", content, TENSORS, file=TorchFile({}))
    with open(tmp_path / "torch.pth", "wb") as file:
        torch.save(content, file)
    ours = records_of(tmp_path / "ours.pth")
    assert ours == records_of(tmp_path / "torch.pth")
    assert all(stated == actual for _, stated, actual in ours.values())
    loaded = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_checksums_are_carried_over_and_not_computed(tmp_path, monkeypatch):
    torch.save({"model": TENSORS}, tmp_path / "source.pth")
    file = open_torch_file(tmp_path / "source.pth")
    read = file.content["model"]
    assert {name for name, tensor in read.items() if file.place(tensor)} == set(TENSORS) - {"empty"}
    assert file.place(read["matrix"][1:]) is None, "a part of a record is not the record"
    assert file.place(read["matrix"].t()) is None, "nor are its elements in another order"
    monkeypatch.delattr("transfer.conversion.write_torch.zlib")
    write_torch_file(tmp_path / "ours.pth", {"model": read}, read, file=file)
    assert torch.equal(read_torch_file(tmp_path / "ours.pth")["model"]["matrix"], TENSORS["matrix"])


def test_a_wrong_checksum_from_the_source_is_found_in_the_result(tmp_path):
    """The control arm: were checksums not carried over, the damaged source would give a sound file."""
    torch.save({"model": TENSORS}, tmp_path / "source.pth")
    file = open_torch_file(tmp_path / "source.pth")

    def lying(tensor):
        return flipped(record) if (record := file.place(tensor)) else None

    def flipped(record):
        other = copy(record)
        other.CRC ^= 1
        return other

    read = file.content["model"]
    write_torch_file(
        tmp_path / "ours.pth",
        {"model": read},
        read,
        file=TorchFile({}, place=lying, read=lambda r: file.read(flipped(r))),
    )
    with pytest.raises(CheckpointError, match="checksum"):
        read_torch_file(tmp_path / "ours.pth")


def test_damage_and_nan_are_found_while_the_file_is_written(tmp_path):
    from pretrain.model.encoder import ResNetEncoder

    state = ResNetEncoder("resnet18").state_dict()
    source = tmp_path / "source.pth"
    torch.save(state, source)
    write(tmp_path / "out.pth", load_backbone(source))
    at = source.read_bytes().index(state["conv1.weight"].numpy().tobytes()[:64])
    with open(source, "r+b") as file:
        file.seek(at + 10)
        byte = file.read(1)
        file.seek(at + 10)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(CheckpointError, match=r"source\.pth.*checksum"):
        write(tmp_path / "out.pth", load_backbone(source))
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, source)
    with pytest.raises(CheckpointError, match=r"NaN or infinity.*conv1\.weight"):
        write(tmp_path / "out.pth", load_backbone(source))
