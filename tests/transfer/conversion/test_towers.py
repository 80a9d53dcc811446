"""Every preset's checkpoint is converted with proof, or refused with the reason and read out; so are small stems and narrow encoders.

The checkpoints are those of real runs of two steps.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.strict import from_mapping, merge
from pretrain.config import RunConfig, method_names, method_values
from pretrain.model.channels import channels_of
from pretrain.run.ranks import Ranks
from pretrain.train import train
from tests.transfer.conversion.checkpoints import deep_copy, save
from transfer.conversion.convert import convert
from transfer.conversion.sidecar import read_sidecar
from transfer.conversion.sources import load_backbone
from transfer.conversion.targets import TARGETS
from transfer.conversion.towers import load_encoders
from transfer.readout.config import LinearConfig
from transfer.readout.features import load_frozen_encoder

pytestmark = pytest.mark.usefixtures("tiny_architectures")
TWO_TOWERS = ("cmc", "cmc_v2")
WITH_KEYS = ("cmc_v2", "infomin", "moco_v1", "moco_v2")  # memory "queue": there is a key network
SHORT = {
    "data": {"num_workers": 0},
    "encoder": {"arch": "tiny50"},
    "method": {"queue_size": 16, "bank_negatives": 15, "batchnorm_images": 4},
    "views": {"image_size": 32, "patch_size": 20},
    "optimizer": {"batch_size": 8, "epochs": 1, "warmup_epochs": 0},
    "runtime": {"device": "cpu", "precision": "fp32"},
}
READOUT = LinearConfig(image_size=32, device="cpu", precision="fp32", num_workers=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Function: method, further values -> the folder of its run of two steps."""
    root = tmp_path_factory.mktemp("images")
    (root / "even").mkdir()
    (root / "odd").mkdir()
    rng = np.random.default_rng(0)
    for index in range(16):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).save(
            root / ("odd" if index % 2 else "even") / f"{index}.png"
        )

    @functools.cache
    def run(method: str, stem: str = "imagenet", arch: str = "tiny50") -> Path:
        own = {"data": {"root": str(root)}, "encoder": {"arch": arch, "stem": stem}}
        config = from_mapping(RunConfig, merge(merge(method_values(method), SHORT), own), where="test")
        folder = tmp_path_factory.mktemp(method)
        train(config, output_dir=folder, resume=False, ranks=Ranks())
        return folder

    return run


def content_of(run: Path) -> dict:
    (path,) = (run / "checkpoints").glob("step_*2.pt")
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in method_names() if name not in TWO_TOWERS])
def test_a_preset_of_one_tower_converts_with_its_proof(trained, tmp_path, method):
    run = trained(method)
    convert(run, tmp_path / "out.pth")
    sidecar = read_sidecar(tmp_path / "out.pth")  # which refuses a proof that does not hold
    assert sidecar.source["method"] == method and sidecar.source["branch"] == "query"
    model = content_of(run)["model"]
    assert torch.equal(load_backbone(run).tensors["conv1.weight"], model["query.encoder.conv1.weight"])
    if method in WITH_KEYS:
        convert(run, tmp_path / "key.pth", branch="key")
        assert read_sidecar(tmp_path / "key.pth").source["branch"] == "key"
    else:
        with pytest.raises(ConfigError, match=r"--branch key: .* holds query; pass one of these"):
            convert(run, tmp_path / "key.pth", branch="key")


@pytest.mark.slow
@pytest.mark.parametrize("method", TWO_TOWERS)
def test_two_towers_are_refused_by_every_target_and_read_out_together(trained, tmp_path, method):
    run = trained(method)
    for target in TARGETS:
        with pytest.raises(CheckpointError, match=r"1 channel \(Y.*2 \(DbDr.*linear_eval.*--method moco_v2"):
            convert(run, tmp_path / f"out{target.suffix}", to=target.name)
    assert not list(tmp_path.iterdir())
    encoder = load_frozen_encoder(str(run), READOUT, branch=None)
    assert encoder.module.arch == "tiny50 (Y + DbDr)" and encoder.module.feature_dim == 2 * 128
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder.features(images)
    for place, tower in enumerate(("Y", "DbDr")):
        alone = encoder.module.encoders[tower](channels_of(images, tower, encoder.contract))
        torch.testing.assert_close(features[:, 128 * place : 128 * (place + 1)], alone, rtol=1e-4, atol=1e-5)
    model = content_of(run)["model"]
    for name, tensor in encoder.module.encoders["DbDr"].state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, model[f"query.DbDr.encoder.{name}"])
    if method in WITH_KEYS:
        key = load_encoders(run, branch="key").towers["Y"]
        assert torch.equal(key["conv1.weight"], model["key.Y.encoder.conv1.weight"])
    else:
        with pytest.raises(ConfigError, match=r"--branch key: .* holds query; pass one of these"):
            load_encoders(run, branch="key")


@pytest.mark.slow
def test_a_small_stem_is_refused_for_a_detector_and_read_out(trained, tmp_path):
    run = trained("simclr", "small")
    with pytest.raises(CheckpointError, match=r"small stem .*linear_eval.*encoder\.stem=imagenet"):
        convert(run, tmp_path / "out.pth")
    encoder = load_frozen_encoder(str(run), READOUT, branch=None)
    assert encoder.module.conv1.kernel_size == (3, 3) and isinstance(encoder.module.maxpool, torch.nn.Identity)
    assert encoder.module.arch == "tiny50, small stem" and encoder.contract.stem == "small"
    assert torch.equal(encoder.module.conv1.weight, content_of(run)["model"]["query.encoder.conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet50_half", "resnet50_half_stem64"])
def test_half_the_width_is_converted_when_asked_for_and_read_out_as_it_is(trained, tmp_path, arch):
    run = trained("instdis", arch=arch)
    with pytest.raises(CheckpointError, match="half as wide as a ResNet-50 .*pass --source"):
        convert(run, tmp_path / "out.pth")
    convert(run, tmp_path / "out.pth", layout="infomin-transfer")
    assert read_sidecar(tmp_path / "out.pth").arch == arch
    assert load_frozen_encoder(str(run), READOUT, branch=None).module.arch == arch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.pop("query.DbDr.encoder.bn1.weight"), r"tower DbDr.* 1 missing: bn1\.weight"),
        (lambda model: model.update({"query.Y.encoder.squeeze": torch.zeros(1)}), "tower Y.* 1 not of a ResNet: squeeze"),
        (lambda model: model["query.Y.encoder.conv1.weight"].fill_(float("nan")), r"NaN .*conv1\.weight"),
        (
            lambda model: model.update({"query.Y.encoder.conv1.weight": torch.zeros(4, 3, 7, 7)}),
            r"conv1\.weight \(4, 3, 7, 7\), expected \(4, 1, 7, 7\)",
        ),
    ],
)  # fmt: skip
def test_a_tower_that_is_not_whole_is_named(trained, tmp_path, spoil, message):
    content = deep_copy(content_of(trained("cmc")))
    spoil(content["model"])
    with pytest.raises(CheckpointError, match=message):
        load_encoders(save(content, tmp_path, layout="infomin-transfer-towers"))
