"""The sidecar: written, read back equal, and refused when it is not what it says."""

from __future__ import annotations

import hashlib
import json

import pytest

from pretrain.base.atomic import write_json
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from tests.cases import each
from tests.transfer.conversion.backbones import passed_proof
from transfer.conversion.sidecar import (
    Sidecar,
    detectron2_settings,
    parse_sidecar,
    proof_finding,
    read_sidecar,
    sidecar_path,
)

WEIGHTS = b"the bytes of some weights"
SIDECAR = Sidecar(
    weights_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    arch="resnet50",
    source={"name": "x.pth", "layout": "moco", "branch": "query"},
    contract=InputContract(),
    detectron2=detectron2_settings("resnet50", InputContract()),
    proof=passed_proof(265),
)


@pytest.fixture
def weights(tmp_path):
    """Weights whose sidecar is yet to be written."""
    (tmp_path / "w.pth").write_bytes(WEIGHTS)
    return tmp_path / "w.pth"


def test_a_sidecar_comes_back_equal(tmp_path, weights):
    write_json(tmp_path / "w.json", SIDECAR.to_dict())
    assert sidecar_path(weights) == tmp_path / "w.json"
    assert read_sidecar(weights) == parse_sidecar(weights) == SIDECAR


def test_a_sidecar_without_a_target_is_detectron2s(tmp_path, weights):
    values = SIDECAR.to_dict()
    del values["target"]
    write_json(tmp_path / "w.json", values)
    assert read_sidecar(weights).target == "detectron2"


def test_a_sidecar_of_other_weights_or_of_none_is_refused(tmp_path, weights):
    write_json(tmp_path / "w.json", SIDECAR.to_dict())
    weights.write_bytes(WEIGHTS + b" ")
    with pytest.raises(CheckpointError, match="not the file its sidecar describes"):
        read_sidecar(weights)
    weights.unlink()
    with pytest.raises(CheckpointError, match="no weight file at"):
        read_sidecar(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.clear(), "None of None tensors"),
        (lambda p: p.update(tensors_placed=264), "264 of 265 tensors"),
        (lambda p: p.update(tensors_placed=0, tensors_expected=0), "0 of 0 tensors"),
        (lambda p: p.pop("relative_difference"), "no differences of stages"),
        (lambda p: p.update(negative_controls=True), "no differences of stages, or no controls"),
        (lambda p: p.update(negative_controls={}), "no differences of stages, or no controls"),
        (lambda p: p["relative_difference"].update(res2=float("nan")), "no differences"),
        (lambda p: p["relative_difference"].update(res2="0"), "no differences"),
        (lambda p: p["relative_difference"].update(res2=1.1e-5), "res2 differs by 1.1e-05"),
        (lambda p: p["relative_difference"].update(res2=-1.0), "res2 differs"),
        (lambda p: p["relative_difference"].pop("res3"), "res3 was not compared"),
        (
            lambda p: p["negative_controls"].update({"pixel std of 1": 0.9e-4}),
            "pixel std of 1 made a difference of 9.0e-05",
        ),
        (lambda p: p["negative_controls"].pop("two tensors swapped"), "two tensors swapped was not run"),
    ],
)
def test_a_proof_that_does_not_hold_says_why(tmp_path, weights, change, message):
    proof = json.loads(json.dumps(SIDECAR.proof))
    assert proof_finding(proof) is None
    change(proof)
    assert message in proof_finding(proof)
    (tmp_path / "w.json").write_text(json.dumps({**SIDECAR.to_dict(), "proof": proof}))
    with pytest.raises(CheckpointError, match="does not prove its weights"):
        read_sidecar(weights)


def test_two_equal_branches_and_a_stem_that_is_not_exposed_are_no_failure():
    proof = json.loads(json.dumps(SIDECAR.proof))
    proof["negative_controls"]["the other branch"] = 0.0
    del proof["relative_difference"]["stem"]
    assert proof_finding(proof) is None


def test_settings_are_the_rgb_figures_of_the_reference():
    settings = detectron2_settings("resnet50", InputContract())
    assert settings["INPUT.FORMAT"] == "RGB"
    assert settings["MODEL.PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])  # docs/specification.md 2.2
    assert settings["MODEL.PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert (settings["MODEL.RESNETS.DEPTH"], settings["MODEL.RESNETS.RES2_OUT_CHANNELS"]) == (50, 256)
    assert detectron2_settings("resnet18", InputContract())["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 64


@each(
    ("change", "message"),
    [
        (lambda v: v.update(format="other"), "not a sidecar"),
        (lambda v: v.update(version=9), "expected sidecar version 1, found 9"),
        (lambda v: v.pop("detectron2"), "expected the fields"),
        (lambda v: v.update(extra=1), "expected the fields"),
        (lambda v: v.update(contract=[]), "expected the fields"),
        (lambda v: v["source"].update(method=["dino"]), "expected a name as method"),
        (lambda v: v["source"].update(pretraining={"seed": 1}), "seed and hash of the pretraining"),
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
