"""JSON files beside the weights: Hugging Face's and timm's mean, standard deviation and stride, or a refusal."""

from __future__ import annotations

import json

import pytest

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from transfer.conversion.companions import huggingface_contract, timm_contract

RGB = InputContract()


@pytest.fixture
def beside(tmp_path):
    """Function: file name -> values, written beside the weights whose path it returns."""

    def write(**files):
        for name, values in files.items():
            (tmp_path / f"{name}.json").write_text(values if isinstance(values, str) else json.dumps(values))
        return tmp_path / "model.safetensors"

    return write


def test_without_files_nothing_is_known(beside):
    assert huggingface_contract(beside(), RGB) is None and timm_contract(beside(), RGB) is None


def test_hugging_face_s_preprocessor_decides(beside):
    weights = beside(
        preprocessor_config={"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_rescale": True}
    )
    contract, note = huggingface_contract(weights, RGB)
    assert (contract.mean, contract.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)) and "preprocessor_config" in note
    assert not contract.stride_in_1x1


def test_hugging_face_without_normalisation_is_zero_and_one(beside):
    contract, _ = huggingface_contract(beside(preprocessor_config={"do_normalize": False}), RGB)
    assert (contract.mean, contract.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_hugging_face_s_configuration_places_the_stride(beside):
    contract, note = huggingface_contract(
        beside(config={"model_type": "resnet", "downsample_in_bottleneck": True}), RGB
    )
    assert contract.stride_in_1x1 and "stride" in note


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"model_type": "vit"}}, "expected model_type resnet, found vit"),
        ({"config": {"downsample_in_first_stage": True}}, "first stage strides"),
        ({"preprocessor_config": {"rescale_factor": 1.0}}, "scales pixels by 1.0"),
        ({"preprocessor_config": {"image_mean": 0.5}}, "image_mean .* expected three numbers, found 0.5"),
        ({"preprocessor_config": "{"}, "is not JSON"),
    ],
)
def test_what_hugging_face_s_files_say_and_no_detector_does_is_refused(beside, files, message):
    with pytest.raises(CheckpointError, match=message):
        huggingface_contract(beside(**files), RGB)


@pytest.mark.parametrize("nested", [True, False])
def test_timm_s_configuration_decides(beside, nested):
    given = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    values = {"architecture": "resnet50.a1_in1k", **({"pretrained_cfg": given} if nested else given)}
    contract, note = timm_contract(beside(config=values), RGB)
    assert contract.mean == (0.5, 0.5, 0.5) and contract.std == (0.25, 0.25, 0.25) and "resnet50.a1_in1k" in note


@pytest.mark.parametrize("name", ["resnet18", "tv_resnet50", "resnext101_32x8d.fb_wsl", "wide_resnet50_2.tv_in1k"])
def test_timm_s_plain_networks_pass(beside, name):
    assert timm_contract(beside(config={"architecture": name}), RGB) is not None


@pytest.mark.parametrize(
    "name", ["resnet50d", "resnetblur50", "resnetaa50", "seresnet50", "resnetv2_50", "resnet50_clip"]
)
def test_timm_s_networks_that_only_look_plain_are_refused(beside, name):
    with pytest.raises(CheckpointError, match=f"{name}.* is not a plain ResNet"):
        timm_contract(beside(config={"architecture": name}), RGB)


def test_a_configuration_of_something_else_is_no_timm_s(beside):
    assert timm_contract(beside(config={"seed": 0}), RGB) is None
