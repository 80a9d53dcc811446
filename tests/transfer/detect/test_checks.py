"""The two guards: a configuration that contradicts its weights is refused, and so is a backbone that is not fully loaded."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.shapes_only import shapes_only
from tests.cases import each
from transfer.detect.checks import (
    COMPARED_KEYS,
    backbone_names,
    check_backbone_loaded,
    check_model_loaded,
    check_settings,
    config_value,
    flat_settings,
    read_tensors,
    same_shape,
)
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.inits import apply_init, parse_init

FPN, SMALL = "coco/R_50_FPN_1x.yaml", "demo/R_18_FPN.yaml"
SETTINGS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
    "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
}
OTHERS = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.530, 116.280, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 512,
}


def load(run: str = FPN, *words: str):
    """A family with random weights in the input of our own."""
    config = load_detector_config(CONFIG_ROOT / run, words)
    apply_init(config, parse_init("random"), frozenset())
    for key, value in zip(words[::2], words[1::2], strict=True):
        config.merge_from_list([key, value])
    return config


def without_memory(run: str) -> nn.Module:
    config = load(run, "MODEL.DEVICE", "meta")
    with shapes_only():
        return build_model(config)


# --- the configuration against the sidecar ----------------------------------------------------------------------------


@each("key", COMPARED_KEYS)
def test_contradiction_names_the_key_and_the_line_to_pass(key: str) -> None:
    """What the message says to pass is passed."""
    settings = SETTINGS | {key: OTHERS[key]}
    with pytest.raises(ConfigError, match=f"the configuration contradicts sidecar x.json:\n  {key} is ") as caught:
        check_settings(load(), settings, where="sidecar x.json")
    (line,) = str(caught.value).splitlines()[1:]
    check_settings(load(FPN, *shlex.split(line.partition("pass: ")[2])), settings, where="sidecar")


def test_every_contradiction_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(load_detector_config(CONFIG_ROOT / FPN), SETTINGS, where="sidecar")
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == list(SETTINGS)[:4]


def test_rounding_is_no_contradiction_and_a_swapped_channel_is() -> None:
    rounded = [255 * value for value in (0.229, 0.224, 0.225)]
    assert rounded != SETTINGS["MODEL.PIXEL_STD"]
    check_settings(load(), SETTINGS | {"MODEL.PIXEL_STD": rounded}, where="sidecar")
    with pytest.raises(ConfigError, match="MODEL.PIXEL_STD"):
        check_settings(load(), SETTINGS | {"MODEL.PIXEL_STD": rounded[::-1]}, where="sidecar")


def test_whole_numbers_in_a_sidecar_are_numbers() -> None:
    settings = SETTINGS | {"MODEL.PIXEL_STD": [1, 1, 1]}
    check_settings(load(FPN, "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"), settings, where="sidecar")


def test_stride_means_nothing_in_a_basic_block() -> None:
    settings = SETTINGS | {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    check_settings(load(SMALL, "MODEL.RESNETS.STRIDE_IN_1X1", "True"), settings, where="sidecar")


def test_sidecar_that_lacks_a_key_proves_nothing() -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "INPUT.FORMAT"}
    with pytest.raises(CheckpointError, match=r"sidecar lacks INPUT\.FORMAT; convert the weights again"):
        check_settings(load(), settings, where="sidecar")


def test_unknown_key_in_a_sidecar_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no configuration key MODEL\.RESNETS\.COLOUR"):
        check_settings(load(), SETTINGS | {"MODEL.RESNETS.COLOUR": 1}, where="sidecar")
    assert config_value(load(), "MODEL.RESNETS.DEPTH") == 50


def test_held_settings_are_read_back_from_a_dumped_configuration(tmp_path: Path) -> None:
    from pretrain.base.strict import load_yaml

    path = tmp_path / "config.yaml"
    path.write_text(load().dump())
    assert flat_settings(load_yaml(path)) == SETTINGS
    assert flat_settings({"MODEL": 3}) == {}


# --- the backbone against the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "count"), [("coco/R_50_C4_1x.yaml", 265), (FPN, 265), ("demo/R_18_FPN.yaml", 100)])
def test_backbone_is_every_convolution_and_norm_of_the_network(run: str, count: int) -> None:
    """R-50: 53 convolutions and 4 tensors of 53 norms; R-18: 20 and 4 of 20. The extra norm and the pyramid are no part."""
    names = backbone_names(without_memory(run))
    assert len(names) == count == len(set(names.values()))
    assert {name.split(".")[0] for name in names.values()} == {"stem", "res2", "res3", "res4", "res5"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(load(SMALL))


@pytest.fixture
def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The backbone's tensors under the names of a converted file."""
    state = model.state_dict()
    return {short: state[name].clone() for name, short in backbone_names(model).items()}


def test_fully_loaded_backbone_is_reported_with_its_count(model, tensors) -> None:
    report = check_backbone_loaded(model, {**tensors, "fc.weight": torch.ones(1)}, where="w.pth")
    assert report == "backbone: 100 of 100 tensors loaded from w.pth"


def test_one_renamed_tensor_is_refused_by_name(model, tensors) -> None:
    tensors["res3.0.conv1.wieght"] = tensors.pop("res3.0.conv1.weight")
    with pytest.raises(
        CheckpointError, match=r"99 of 100 tensors are; 1 missing in the file: .*res3\.0\.conv1\.weight\."
    ):
        check_backbone_loaded(model, tensors, where="w.pth")


@pytest.mark.parametrize("name", ["res2.0.conv1.weight", "stem.conv1.norm.running_var", "res5.1.conv2.norm.bias"])
def test_one_changed_value_is_noticed(model, tensors, name: str) -> None:
    tensors[name].flatten()[0] += 1
    with pytest.raises(CheckpointError, match="of another shape or value: .*" + name.replace(".", r"\.")):
        check_backbone_loaded(model, tensors, where="w.pth")


def test_wrong_shape_and_nan_are_refused(model, tensors) -> None:
    tensors["res2.0.conv1.weight"] = tensors["res2.0.conv1.weight"][:3]
    tensors["stem.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="98 of 100 tensors are; 2 of another shape or value"):
        check_backbone_loaded(model, tensors, where="w.pth")


def test_empty_file_is_not_a_loaded_backbone(model) -> None:
    with pytest.raises(CheckpointError, match="0 of 100 tensors"):
        check_backbone_loaded(model, {}, where="w.pth")
    with pytest.raises(CheckpointError, match="0 of 0 tensors"):
        check_backbone_loaded(nn.Linear(1, 1), {}, where="w.pth")


def test_missing_statistics_are_allowed_only_where_they_are_expected(model, tensors) -> None:
    """MSRA's file has none of them; a converted file that lost them is half a file."""
    affine = {name: value for name, value in tensors.items() if ".running_" not in name}
    assert "start at mean 0" in check_backbone_loaded(model, affine, where="R-50.pkl", affine_allowed=True)
    with pytest.raises(CheckpointError, match="60 of 100 tensors"):
        check_backbone_loaded(model, affine, where="w.pth")
    del tensors["stem.conv1.norm.running_mean"]  # one of many is no affine file
    with pytest.raises(CheckpointError, match="99 of 100"):
        check_backbone_loaded(model, tensors, where="w.pth", affine_allowed=True)


def test_shapes_can_be_checked_without_memory_for_values(tensors) -> None:
    shell = without_memory(SMALL)
    check_backbone_loaded(shell, tensors, where="w.pth", agree=same_shape)
    with pytest.raises(CheckpointError, match="MODEL.RESNETS.DEPTH"):
        check_backbone_loaded(without_memory(FPN), tensors, where="w.pth", agree=same_shape)


def test_whole_detector_is_compared_with_its_heads(model) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert check_model_loaded(model, state, where="w.pth") == "detector: 162 of 162 tensors loaded from w.pth"
    state.pop("roi_heads.box_predictor.cls_score.bias")
    with pytest.raises(CheckpointError, match=r"missing in the file: roi_heads\.box_predictor\.cls_score\.bias"):
        check_model_loaded(model, state, where="w.pth")


# --- files ------------------------------------------------------------------------------------------------------------


def test_tensors_are_read_without_ddp_prefix_and_extras(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": {"module.stem.conv1.weight": torch.ones(2)}, "iteration": 3}, path)
    assert {name: value.tolist() for name, value in read_tensors(str(path)).items()} == {"stem.conv1.weight": [1, 1]}
    torch.save({"a": torch.zeros(1)}, path)
    assert list(read_tensors(str(path))) == ["a"]
    torch.save({"model": {"a": torch.zeros(1), "__note__": "text"}}, path)  # Detectron2 would stop with a traceback
    with pytest.raises(CheckpointError, match="no tensor: __note__"):
        read_tensors(str(path))


def test_names_of_caffe2_are_translated(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    blobs = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "res2_0_branch2a_bn_s": np.ones(64, np.float32)}
    path.write_bytes(pickle.dumps({"model": blobs, "__author__": "Caffe2"}))
    assert set(read_tensors(str(path))) == {"stem.conv1.weight", "res2.0.conv1.norm.weight"}


def test_file_that_is_no_weight_file_is_refused_with_its_name(tmp_path: Path) -> None:
    """Kinds of damage are tested beside the readers."""
    path = tmp_path / "w.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"cannot read the weights .*w\.pth: truncated or not a weight file"):
        read_tensors(str(path))
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensors(str(path))


class Canary:
    """An object whose unpickling would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_code_in_a_torch_file_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"model": {"a": Canary(canary)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError):
        read_tensors(str(tmp_path / "w.pth"))
    assert not canary.exists()
