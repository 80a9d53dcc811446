"""Supervised pre-training: cross-entropy against the images' own folders."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, DataError
from pretrain.base.strict import from_mapping, merge
from pretrain.config import EncoderConfig, MethodConfig, RunConfig, method_values
from pretrain.data.labels import folder_labels
from pretrain.data.source import ImageSource, open_source
from pretrain.data.stream import open_stream
from pretrain.dry_run import describe
from pretrain.good_views.measure import load_critic
from pretrain.model import supervised
from pretrain.model.supervised import Supervised
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.train import train
from tests.pretrain.conftest import TINY
from tests.pretrain.model.tiny_methods import TinyEncoder, batch_of


def build(monkeypatch, labels: torch.Tensor) -> Supervised:
    monkeypatch.setattr(supervised, "build_encoder", lambda config, *, tower: TinyEncoder(3))
    config = from_mapping(MethodConfig, method_values("supervised")["method"], where="test")
    method = Supervised(encoder=EncoderConfig(), config=config, contract=InputContract(), seed=3, labels=labels)
    return method.double().train()


def test_the_loss_is_the_cross_entropy_of_each_image_s_own_class(monkeypatch):
    labels = torch.arange(23) % 3
    method, batch = build(monkeypatch, labels), batch_of(6, step=0)
    output = method.step(batch, forward=method.trained, ranks=Ranks(), step=0)
    logits = method.trained(method._channels(batch.images[:, 0])).detach().numpy()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    own = labels[batch.index].numpy()
    assert output.loss.item() == pytest.approx(-log_share[np.arange(6), own].mean(), rel=1e-12)
    assert output.figures["accuracy"].item() == pytest.approx((logits.argmax(axis=1) == own).mean())
    output.loss.backward()
    share = np.exp(log_share)
    share[np.arange(6), own] -= 1
    np.testing.assert_allclose(method.query.head.bias.grad.numpy(), share.mean(axis=0), rtol=1e-9, atol=1e-12)


def test_classes_are_the_folders_in_which_images_lie(tmp_path):
    names = ["zebra/1.png", "ant/1.png", "zebra/2.png", "more/ant/1.png"]
    labels, classes = folder_labels(ImageSource(tmp_path, names))
    assert classes == ("ant", "more/ant", "zebra") and labels.tolist() == [2, 0, 2, 1]
    with pytest.raises(DataError, match=r"expects class folders.* all 2 images lie in ant"):
        folder_labels(ImageSource(tmp_path, ["ant/1.png", "ant/2.png"]))


def test_the_name_of_a_shard_is_no_class(tmp_path):
    for shard in ("train-0.tar", "train-1.tar"):
        with tarfile.open(tmp_path / shard, "w") as archive:
            for name in ("ant/1.png", "bee/2.png"):
                archive.addfile(tarfile.TarInfo(name))
    assert folder_labels(open_source(tmp_path))[1] == ("ant", "bee")
    for shard in ("train-0.tar", "train-1.tar"):
        with tarfile.open(tmp_path / shard, "w") as archive:
            archive.addfile(tarfile.TarInfo("1.png"))
    with pytest.raises(DataError, match="expects class folders.* lie in the folder itself"):
        folder_labels(open_source(tmp_path))


@pytest.fixture(scope="module")
def red_and_blue(tmp_path_factory) -> Path:
    """Two classes that a colour tells apart; the files' order does not."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for index in range(48):
        name, channel = ("red", 0) if index % 3 else ("blue", 2)
        pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        pixels[..., channel] += 120
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root


@pytest.mark.slow
def test_it_learns_the_classes_from_a_folder_and_from_a_list_and_has_no_views_to_measure(red_and_blue, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, reversed(open_source(red_and_blue).paths))) + "\n")
    for number, root in enumerate((red_and_blue, listed)):
        own = {"data": {"root": str(root)}, "optimizer": {"epochs": 6, "learning_rate": 0.05, "warmup_epochs": 0}}
        config = from_mapping(RunConfig, merge(merge(TINY, method_values("supervised")), own), where="test")
        result = train(config, output_dir=tmp_path / str(number), resume=False, ranks=Ranks())
        assert result["final"]["accuracy"] == 1 and result["final"]["loss"] < 0.3
    with pytest.raises(CheckpointError, match="a supervised one, which compares no views"):
        load_critic(tmp_path / "0" / result["checkpoint"], choose_precision("fp32", torch.device("cpu")))


def test_two_towers_or_a_jigsaw_branch_are_refused():
    values = method_values("supervised")["method"]
    for wrong in (
        {"jigsaw": True},
        {"towers": ["Y", "DbDr"], "contrasts": method_values("cmc")["method"]["contrasts"]},
    ):
        with pytest.raises(Exception, match="memory labels .* one tower and jigsaw false"):
            from_mapping(MethodConfig, merge(values, wrong), where="test")


@pytest.mark.slow
def test_the_dry_run_names_the_loss_of_a_guess_among_the_classes(red_and_blue):
    own = {"data": {"root": str(red_and_blue)}}
    config = from_mapping(RunConfig, merge(merge(TINY, method_values("supervised")), own), where="test")
    assert f"loss of a uniform guess ln(classes) = {math.log(2):.4f}" in describe(
        config, open_stream(config, ranks=Ranks(), announce=str), ranks=Ranks()
    )
