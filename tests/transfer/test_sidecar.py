"""The sidecar: written, read back equal, and refused when it is not what it says."""

from __future__ import annotations

import json

import pytest

from pretrain.atomic import write_json
from pretrain.contract import InputContract
from pretrain.errors import CheckpointError
from transfer.sidecar import Sidecar, detectron2_settings, read_sidecar, sidecar_path

SIDECAR = Sidecar(
    weights_sha256="ab" * 32,
    arch="resnet50",
    source={"name": "x.pth", "layout": "moco", "branch": "query"},
    contract=InputContract(),
    detectron2=detectron2_settings("resnet50", InputContract()),
    proof={"tensors_placed": 265},
)


def test_a_sidecar_comes_back_equal(tmp_path):
    write_json(tmp_path / "w.json", SIDECAR.to_dict())
    assert sidecar_path(tmp_path / "w.pth") == tmp_path / "w.json"
    assert read_sidecar(tmp_path / "w.pth") == SIDECAR


def test_settings_are_the_rgb_figures_of_the_reference():
    settings = detectron2_settings("resnet50", InputContract())
    assert settings["INPUT.FORMAT"] == "RGB"
    assert settings["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])  # infomin.md 2.2
    assert settings["MODEL.PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert (settings["MODEL.RESNETS.DEPTH"], settings["MODEL.RESNETS.RES2_OUT_CHANNELS"]) == (50, 256)
    assert detectron2_settings("resnet18", InputContract())["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format="other"), "not a sidecar"),
        (lambda v: v.update(version=9), "expected sidecar version 1, found 9"),
        (lambda v: v.pop("detectron2"), "expected the fields"),
        (lambda v: v.update(extra=1), "expected the fields"),
        (lambda v: v.update(contract=[]), "expected the fields"),
        (lambda v: v["contract"].pop("std"), "input contract"),
    ],
)
def test_a_sidecar_that_is_not_one_is_refused(tmp_path, change, message):
    values = json.loads(json.dumps(SIDECAR.to_dict()))
    change(values)
    (tmp_path / "w.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        read_sidecar(tmp_path / "w.pth")


def test_an_absent_or_garbled_sidecar_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"no sidecar at .*convert"):
        read_sidecar(tmp_path / "w.pth")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable sidecar"):
        read_sidecar(tmp_path / "w.pth")
