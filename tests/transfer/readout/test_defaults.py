"""Which readout runs where no configuration file is named."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.model.encoder import ResNetEncoder
from pretrain.run.checkpoint import write_checkpoint
from transfer.conversion.convert import convert
from transfer.conversion.initialisation import initialisation_name
from transfer.readout import defaults
from transfer.readout.config import LinearConfig
from transfer.readout.defaults import default_readout


@pytest.fixture
def checkpoint(tmp_path):
    """A pre-training checkpoint of a run at 96 px."""
    encoder = ResNetEncoder("resnet18").state_dict()
    model = {f"{branch}.encoder.{name}": tensor for branch in ("query", "key") for name, tensor in encoder.items()}
    model["memory.features"] = torch.zeros(4, 2)
    rest = {"method": "infomin", "optimizer": {}, "scaler": {}, "progress": {}, "config": {"views": {"image_size": 96}}}
    write_checkpoint(
        tmp_path / "c.pt", {"arch": "resnet18", "contract": InputContract().to_dict(), "model": model, **rest}
    )
    return tmp_path / "c.pt"


def test_few_images_take_the_size_that_the_encoder_was_trained_at(checkpoint, class_folders):
    config, why = default_readout(str(checkpoint), class_folders)
    assert config.image_size == 96 and config.standardize and config.images_per_class is None
    assert "the encoder was pre-trained at 96 px" in why


def test_a_converted_file_carries_the_size_and_the_method_of_its_run(checkpoint, class_folders, tmp_path):
    sidecar = convert(checkpoint, tmp_path / "mine.pth", untrained=True)
    assert (sidecar.source["method"], sidecar.source["image_size"]) == ("infomin", 96)
    assert default_readout(str(tmp_path / "mine.pth"), class_folders)[0].image_size == 96
    assert initialisation_name(str(tmp_path / "mine.pth")) == "infomin"


def test_many_images_take_the_papers_protocol(checkpoint, class_folders, monkeypatch):
    monkeypatch.setattr(defaults, "MANY_IMAGES", 1)
    assert default_readout(str(checkpoint), class_folders)[0] == LinearConfig()


def test_what_is_given_wins_and_a_mistyped_key_is_found_first(checkpoint, class_folders, tmp_path):
    config, _ = default_readout(str(checkpoint), class_folders, ["image_size=64", "epochs=3"])
    assert (config.image_size, config.epochs) == (64, 3)
    with pytest.raises(ConfigError, match="did you mean `epochs`"):
        default_readout(str(checkpoint), tmp_path / "absent", ["epoch=3"])


def test_a_file_that_is_no_checkpoint_of_ours_leaves_the_size_to_the_images(class_folders, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    config, why = default_readout(str(tmp_path / "other.pth"), class_folders)
    assert config.image_size % 32 == 0 and "the images' own size" in why
