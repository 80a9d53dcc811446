"""What is written is what is read; whatever else lies there is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save, save_file

from pretrain.base.errors import CheckpointError
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import (
    FORMAT,
    GeneratorRecord,
    generator_bytes,
    generator_from_bytes,
    load_generator,
    record_of,
    write_generator,
)
from tests.cases import each


def made(seed: int = 0, **config) -> tuple[Generator, GeneratorRecord]:
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**{"hidden_width": 4, "space": "lab", "coupling": "affine", **config}))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    record = record_of(
        generator, mode="unsupervised", seed=seed, mean=(0.1, 0.2, 0.3), std=(1, 1, 1), training={"steps": 3}
    )
    return generator, record


@pytest.mark.parametrize("layer_mode", ["all_1x1", "last_3x3"])
def test_what_is_written_is_what_is_read(tmp_path: Path, layer_mode: str) -> None:
    generator, record = made(layer_mode=layer_mode)
    write_generator(tmp_path / "deep" / "g.safetensors", generator, record)
    frozen = load_generator(tmp_path / "deep" / "g.safetensors")
    assert frozen.record == record and not frozen.generator.training
    assert not any(parameter.requires_grad for parameter in frozen.generator.parameters())
    rgb = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(frozen.to_space(rgb), generator.from_rgb(rgb))
    assert torch.allclose(frozen.to_rgb(frozen.to_space(rgb[0])), rgb[0], atol=1e-4)
    assert frozen.to_space(rgb[0]).shape == (3, 8, 8) and frozen.mean == record.mean
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["g.safetensors"]


def test_equal_generators_give_equal_bytes() -> None:
    assert generator_bytes(*made()) == generator_bytes(*made())
    assert generator_bytes(*made()) != generator_bytes(*made(seed=1))


def rewritten(change) -> bytes:
    """The bytes of a generator with another description."""
    data = generator_bytes(*made())
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
    change(about)
    return save(load(data), metadata={FORMAT: json.dumps(about)})


def other_record(key: str, value: object):
    return lambda about: about["record"].update({key: value})


@each(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "expected generator version 1, found 2"),
        (lambda m: m.pop("record"), "description cannot be used"),
        (lambda m: m.update(record=3), "description cannot be used|expected a group"),
        (other_record("space_mean", [0, 0, 0]), "made for lab normalised by mean"),
        (other_record("config", {"hidden_width": 5, "space": "lab", "coupling": "affine"}), "size mismatch"),
        (other_record("config", {"space": "labs"}), "did you mean 'lab'"),
        (other_record("colour", 1), "unknown key `colour`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_reason(change, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^g.safetensors.*{message}"):
        generator_from_bytes(rewritten(change), where="g.safetensors")


def test_damage_anywhere_is_noticed(tmp_path: Path) -> None:
    data = generator_bytes(*made())
    for length in (0, 4, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(CheckpointError, match="not a safetensors file, or truncated"):
            generator_from_bytes(data[:length], where="g")
    flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    with pytest.raises(CheckpointError, match="damaged"):
        generator_from_bytes(flipped, where="g")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"page\.safetensors is not a readable generator"):
        load_generator(tmp_path / "page.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"no generator .*tools/learn_views\.py"):
        load_generator(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read the generator .*absent.*No such file"):
        load_generator(tmp_path / "absent.safetensors")
