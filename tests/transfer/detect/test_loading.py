"""Which weights a run may use: decided before anything is written, and proven after they are loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import nn

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.record import OpenRecord, Record
from tests.transfer.conversion.backbones import passed_proof
from tests.transfer.conversion.checkpoints import detectron2_names, moco_v2, pycontrast
from tests.transfer.conversion.checkpoints_libraries import flat
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.published import catalog_entry
from transfer.conversion.sidecar import Sidecar, detectron2_settings
from transfer.conversion.weight_files import file_sha256
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.loading import WeightsPlan, explained_download, plan_weights, verify_fits, verify_loaded

CATALOG = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def load(*words: str):
    config = load_detector_config(CONFIG_ROOT / "demo" / "R_18_FPN.yaml", words)
    config.OUTPUT_DIR = config.OUTPUT_DIR if "OUTPUT_DIR" in words else "no/such/folder"
    return config


def plan(*words: str, eval_only=False, resume=False, trust=False) -> WeightsPlan:
    return plan_weights(load(*words), eval_only=eval_only, resume=resume, trust=trust)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """All tensors of a small detector."""
    torch.manual_seed(0)
    return build_model(load()).state_dict()


@pytest.fixture(scope="module")
def converted_file(state, tmp_path_factory) -> Path:
    """The detector's backbone under the names of a converted file."""
    path = tmp_path_factory.mktemp("weights") / "converted.pth"
    prefix = "backbone.bottom_up."
    model = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    torch.save({"model": model, "matching_heuristics": True, "__author__": "tests"}, path)
    return path


@pytest.fixture
def write_weights(tmp_path: Path, converted_file: Path):
    """Function: Detectron2 settings to replace in the sidecar -> a converted backbone with its sidecar."""

    def write(**over) -> Path:
        path = Path(shutil.copyfile(converted_file, tmp_path / "w.pth"))
        sidecar = Sidecar(
            weights_sha256=file_sha256(converted_file),
            arch="resnet18",
            source={"layout": "infomin-transfer", "branch": "query"},
            contract=InputContract(),
            detectron2=detectron2_settings("resnet18", InputContract()) | over,
            proof=passed_proof(),
        )
        path.with_suffix(".json").write_text(json.dumps(sidecar.to_dict()))
        return path

    return write


def test_empty_weights_are_random_initialisation() -> None:
    found = plan("MODEL.WEIGHTS", "")
    assert found == WeightsPlan("random", "") and "random initialisation" in found.note
    assert verify_loaded(found, nn.Linear(1, 1)) == "backbone: random initialisation"


MSRA = (
    "INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]",
    "MODEL.RESNETS.STRIDE_IN_1X1", "True", "MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256",
)  # fmt: skip


def test_detectron2s_own_weights_need_no_sidecar_and_are_not_fetched_to_look() -> None:
    found = plan("MODEL.WEIGHTS", CATALOG, *MSRA)
    assert found.kind == "catalog" and "the configuration agrees with their input" in found.note
    verify_fits(found, load())


@pytest.mark.parametrize(
    ("address", "trust"),
    [
        (CATALOG, False),
        ("catalog://ImageNetPretrained/MSRA/R-50", False),
        ("https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl", True),
    ],
)
def test_catalog_weights_under_another_input_are_refused_with_the_lines_to_change(address: str, trust: bool) -> None:
    words = dict(zip(MSRA[::2], MSRA[1::2], strict=True)) | {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": "[123.675, 116.28, 103.53]",
        "MODEL.PIXEL_STD": "[58.395, 57.12, 57.375]",
        "MODEL.RESNETS.STRIDE_IN_1X1": "False",
    }
    with pytest.raises(ConfigError) as caught:
        plan("MODEL.WEIGHTS", address, *(word for pair in words.items() for word in pair), trust=trust)
    assert str(caught.value).splitlines() == [
        f"the configuration contradicts what {address} expects (detectron2/checkpoint/catalog.py and config/defaults.py):",
        "  INPUT.FORMAT is 'RGB', must be 'BGR'; pass: INPUT.FORMAT BGR",
        "  MODEL.PIXEL_MEAN is [123.675, 116.28, 103.53], must be [103.53, 116.28, 123.675]; "
        'pass: MODEL.PIXEL_MEAN "[103.53, 116.28, 123.675]"',
        "  MODEL.PIXEL_STD is [58.395, 57.12, 57.375], must be [1.0, 1.0, 1.0]; "
        'pass: MODEL.PIXEL_STD "[1.0, 1.0, 1.0]"',
        "  MODEL.RESNETS.STRIDE_IN_1X1 is False, must be True; pass: MODEL.RESNETS.STRIDE_IN_1X1 True",
    ]
    plan("MODEL.WEIGHTS", address, *MSRA, trust=trust)  # the control: with these lines it passes


def test_catalog_weights_that_nothing_is_known_of_say_so() -> None:
    note = plan("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/DeepLab/R-103.pkl").note
    assert "nothing here knows which input they were trained on" in note and "unchecked" in note


def test_the_model_zoos_own_runs_agree_with_what_is_known_of_their_weights() -> None:
    """The table of known weights, compared with the configurations that Detectron2 trained with them."""
    runs = ("faster_rcnn_R_50_C4_1x", "faster_rcnn_R_101_FPN_3x", "faster_rcnn_X_101_32x8d_FPN_3x")
    for name in runs:
        config = model_zoo.get_config(f"COCO-Detection/{name}.yaml")
        config.MODEL.WEIGHTS = config.MODEL.WEIGHTS or CATALOG
        assert catalog_entry(config.MODEL.WEIGHTS) is not None
        assert plan_weights(config, eval_only=False, resume=False, trust=False).kind == "catalog"


def test_converted_weights_pass_with_their_sidecar(tmp_path: Path, write_weights) -> None:
    found = plan("MODEL.WEIGHTS", str(write_weights()))
    assert found.kind == "converted" and found.sidecar["source"]["layout"] == "infomin-transfer"
    json.dumps(found.sidecar)  # it goes into the record


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is 'RGB', must be 'BGR'; pass: INPUT.FORMAT BGR"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], 'pass: MODEL.PIXEL_STD "[1.0, 1.0, 1.0]"'),
        ("MODEL.RESNETS.DEPTH", 34, "MODEL.RESNETS.DEPTH is 18, must be 34; pass: MODEL.RESNETS.DEPTH 34"),
    ],
)
def test_contradicting_configuration_stops_with_the_line_to_change(
    tmp_path: Path, write_weights, key, value, line
) -> None:
    path = write_weights(**{key: value})
    with pytest.raises(ConfigError) as caught:
        plan("MODEL.WEIGHTS", str(path))
    assert line in str(caught.value) and f"sidecar {tmp_path}/w.json" in str(caught.value)


def without_sidecar(content, path: Path) -> str:
    """The message about a file with `content`; --trust takes it all the same."""
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        plan("MODEL.WEIGHTS", str(path))
    found = plan("MODEL.WEIGHTS", str(path), trust=True)
    assert found.kind == "trusted" and "WITHOUT a sidecar" in found.note
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "loadable"), [(flat, False), (moco_v2, False), (pycontrast, False), (detectron2_names, True)]
)
@pytest.mark.usefixtures("tiny_architectures")
def test_a_checkpoint_without_a_sidecar_is_to_be_converted(tmp_path: Path, make, loadable: bool) -> None:
    """--trust is offered only where Detectron2 finds the tensors."""
    said = without_sidecar(make(tiny_state("tiny50"), tiny_state("tiny50", 1)), tmp_path / "w.pth")
    assert f"no sidecar at {tmp_path}/w.json" in said
    assert f"convert it with `python tools/convert_weights.py {tmp_path}/w.pth OUTPUT.pth`" in said
    assert ("--trust" in said) is loadable


@pytest.mark.parametrize(
    ("author", "advice"),
    [
        (
            "InfoMin Transfer",
            "put the one that was written with it back beside it, or convert the checkpoint that it was made from",
        ),
        ("somebody", "nothing says which input it wants"),
    ],
)
def test_converted_weights_that_lost_their_sidecar_are_not_to_be_converted_onto_themselves(
    tmp_path: Path, converted_file: Path, author: str, advice: str
) -> None:
    content = torch.load(converted_file, weights_only=True) | {"__author__": author}
    said = without_sidecar(content, tmp_path / "w.pth")
    assert advice in said and "--trust" in said and f"{tmp_path}/w.pth OUTPUT" not in said


def test_what_no_conversion_takes_is_not_sent_to_the_converter(tmp_path: Path) -> None:
    said = without_sidecar({"state_dict": {"a": torch.zeros(2)}}, tmp_path / "w.pth")
    assert "cannot be converted: " in said and "of no known layout" in said and f"{tmp_path}/w.pth OUTPUT" not in said


def test_a_detector_without_a_sidecar_is_named_as_one(tmp_path: Path, state) -> None:
    said = without_sidecar({"model": state}, tmp_path / "model_final.pth")
    assert "is a whole detector" in said and "--eval-only" in said
    assert "no config.yaml beside it" in said and f"{tmp_path}/model_final.pth OUTPUT" not in said
    (tmp_path / "config.yaml").write_text(load().dump())
    said = without_sidecar({"model": state}, tmp_path / "model_final.pth")
    assert (
        f"its backbone alone, convert it with `python tools/convert_weights.py {tmp_path}/model_final.pth OUTPUT.pth`"
        in said
    )


def change_sidecar(path: Path, change) -> None:
    values = json.loads(path.with_suffix(".json").read_text())
    change(values)
    path.with_suffix(".json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "0" * 64}, "not the file its sidecar describes"),
        ({"proof": {}}, "does not prove its weights"),
        ({"version": 7}, "expected sidecar version 1, found 7"),
    ],
)
def test_a_sidecar_that_is_not_valid_is_refused_unless_vouched_for(write_weights, change, message) -> None:
    """What makes one invalid is tested beside `read_sidecar`."""
    path = write_weights()
    assert plan("MODEL.WEIGHTS", str(path)).kind == "converted"  # the control: it is valid before
    change_sidecar(path, lambda values: values.update(change))
    with pytest.raises(CheckpointError, match=rf"{message}.*--trust"):
        plan("MODEL.WEIGHTS", str(path))
    assert plan("MODEL.WEIGHTS", str(path), trust=True).kind == "trusted"


def test_weights_for_another_library_are_refused_by_name(tmp_path: Path, write_weights) -> None:
    path = write_weights()
    change_sidecar(path, lambda v: v.update(target="torchvision"))
    with pytest.raises(CheckpointError, match=r"was written for torchvision; .*convert_weights\.py INPUT OUTPUT\.pth"):
        plan("MODEL.WEIGHTS", str(path))
    change_sidecar(path, lambda v: v.pop("target"))  # sidecars older than the field are Detectron2's
    assert plan("MODEL.WEIGHTS", str(path)).kind == "converted"


def test_trust_does_not_silence_a_sidecar_that_contradicts(tmp_path: Path, write_weights) -> None:
    path = write_weights(**{"INPUT.FORMAT": "BGR"})
    with pytest.raises(ConfigError, match="contradicts"):
        plan("MODEL.WEIGHTS", str(path), trust=True)


def test_absent_file_address_and_pickle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weight file at absent\.pth"):
        plan("MODEL.WEIGHTS", "absent.pth")
    with pytest.raises(ConfigError, match="is an address; expected a file"):
        plan("MODEL.WEIGHTS", "https://example.org/w.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"a": np.zeros(1, np.float32)}, "__author__": "me"}))
    with pytest.raises(CheckpointError, match="has no sidecar"):
        plan("MODEL.WEIGHTS", str(tmp_path / "w.pkl"))
    with pytest.raises(CheckpointError, match=r"is a folder; .*convert_weights\.py .* OUTPUT\.pth"):
        plan("MODEL.WEIGHTS", str(tmp_path))
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        plan("MODEL.WEIGHTS", str(tmp_path / "lfs.pth"))


def test_a_pickle_with_its_proof_is_as_good_as_a_torch_file(write_weights) -> None:
    path = write_weights()
    values = json.loads(path.with_suffix(".json").read_text())
    arrays = {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True)["model"].items()}
    pickled = path.with_suffix(".pkl")
    pickled.write_bytes(pickle.dumps({"model": arrays, "__author__": "test", "matching_heuristics": True}))
    values |= {"weights_sha256": file_sha256(pickled), "target": "pkl"}
    pickled.with_suffix(".json").write_text(json.dumps(values))
    assert plan("MODEL.WEIGHTS", str(pickled)).kind == "converted"
    pickled.with_suffix(".json").write_text(json.dumps(values | {"target": "timm"}))  # control
    with pytest.raises(CheckpointError, match="was written for timm"):
        plan("MODEL.WEIGHTS", str(pickled))


@pytest.mark.slow
def test_half_a_backbone_is_refused_before_and_after_loading(tmp_path: Path, write_weights) -> None:
    path = write_weights()
    content = torch.load(path, weights_only=True)
    content["model"]["res3.0.conv1.weight_orig"] = content["model"].pop("res3.0.conv1.weight")
    torch.save(content, path)
    path.with_suffix(".json").unlink()
    found = plan("MODEL.WEIGHTS", str(path), trust=True)
    with pytest.raises(CheckpointError, match=r"99 of 100 tensors .*res3\.0\.conv1\.weight"):
        verify_fits(found, load())
    model = build_model(load())
    DetectionCheckpointer(model).load(str(path))  # Detectron2 itself only logs a warning
    with pytest.raises(CheckpointError, match=r"99 of 100 tensors .*res3\.0\.conv1\.weight"):
        verify_loaded(found, model)


@pytest.mark.slow
def test_backbone_arrives_through_detectron2s_own_loader(tmp_path: Path, write_weights) -> None:
    path = write_weights()
    found = plan("MODEL.WEIGHTS", str(path))
    verify_fits(found, load())
    model = build_model(load())
    with pytest.raises(CheckpointError, match="not fully loaded"):
        verify_loaded(found, model)
    DetectionCheckpointer(model).load(str(path))
    assert verify_loaded(found, model) == f"backbone: 100 of 100 tensors loaded from {path}"


def test_converted_file_that_lost_its_statistics_is_half_a_file(write_weights) -> None:
    """Only Detectron2's own affine weights may come without them."""
    path = write_weights()
    content = torch.load(path, weights_only=True)
    content["model"] = {name: value for name, value in content["model"].items() if ".running_" not in name}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"60 of 100 tensors .*running_mean"):
        verify_fits(WeightsPlan("converted", str(path)), load())
    verify_fits(WeightsPlan("trusted", str(path)), load())


def test_weights_of_another_depth_are_refused_before_anything_is_written(tmp_path: Path, write_weights) -> None:
    found = WeightsPlan("trusted", str(write_weights()))
    with pytest.raises(CheckpointError, match=r"Does the configuration build the network .*MODEL\.RESNETS\.DEPTH"):
        verify_fits(found, load("MODEL.RESNETS.DEPTH", "34"))


# --- complete detectors -----------------------------------------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path: Path, state) -> Path:
    """What a finished run leaves: checkpoint, pointer, configuration, record."""
    torch.save({"model": state, "iteration": 3}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth\n")
    (tmp_path / "config.yaml").write_text(load().dump())
    about = Record("detection", {}, {}, seeds={}, class_names=("ant", "bee"))
    OpenRecord(tmp_path / "record.json", about).finish({})
    return tmp_path


def test_resume_takes_the_newest_checkpoint_and_without_one_the_weights(run_dir: Path) -> None:
    found = plan("OUTPUT_DIR", str(run_dir), resume=True)
    assert (found.kind, found.weights) == ("checkpoint", f"{run_dir}/model_final.pth")
    verify_fits(found, load())
    (run_dir / "last_checkpoint").unlink()  # as a kill between the two leaves it
    assert plan("OUTPUT_DIR", str(run_dir), resume=True).weights == f"{run_dir}/model_final.pth"
    (run_dir / "model_final.pth").unlink()
    assert plan("OUTPUT_DIR", str(run_dir), resume=True).kind == "random"


@pytest.mark.parametrize("pointer", ["", "model_gone.pth"])  # as a full disk leaves it, as a careless copy does
def test_a_pointer_to_no_checkpoint_counts_for_nothing(run_dir: Path, state, pointer: str) -> None:
    torch.save({"model": state, "iteration": 1}, run_dir / "model_0000001.pth")
    (run_dir / "last_checkpoint").write_text(pointer)
    assert (
        plan("OUTPUT_DIR", str(run_dir), resume=True).weights == f"{run_dir}/model_final.pth"
    )  # of 4 iterations, not of 2


def test_evaluation_needs_a_detector() -> None:
    with pytest.raises(ConfigError, match=r"pass MODEL\.WEIGHTS RUN/model_final\.pth"):
        plan(eval_only=True)


def test_evaluated_detector_brings_its_classes_and_its_record(run_dir: Path, state) -> None:
    weights = run_dir / "model_final.pth"
    found = plan("MODEL.WEIGHTS", str(weights), eval_only=True)
    assert found.class_names == ("ant", "bee") and found.trained.kind == "detection"
    assert "complete detector" in found.note
    torch.save({"model": state, "class_names": ["bee", "ant"]}, weights)  # the checkpoint's own come first
    found = plan("MODEL.WEIGHTS", str(weights), eval_only=True)
    assert found.class_names == ("bee", "ant") and found.trained is None


@pytest.mark.parametrize(
    ("result", "names"),
    [
        ('{"format": "infomin-transfer/detection-result", "class_names": ["bee", "ant"]}', ("bee", "ant")),
        ('{"format": "of another program", "class_names": ["bee", "ant"]}', None),
        ('{"format": "infomin-transfer/detection-result", "class_names": [1, 2]}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_a_detector_from_before_the_record_has_the_class_order_of_its_result(run_dir: Path, result, names) -> None:
    (run_dir / "record.json").unlink()
    (run_dir / "result.json").write_text(result)
    assert plan("MODEL.WEIGHTS", str(run_dir / "model_final.pth"), eval_only=True).class_names == names


def test_evaluation_under_another_input_contract_is_refused(run_dir: Path) -> None:
    """Channel order is in no checkpoint: without this the AP would only be lower."""
    weights = str(run_dir / "model_final.pth")
    with pytest.raises(ConfigError, match=r"contradicts the detector's own .*config\.yaml:\n  INPUT\.FORMAT is 'BGR'"):
        plan("MODEL.WEIGHTS", weights, "INPUT.FORMAT", "BGR", eval_only=True)
    (run_dir / "config.yaml").unlink()
    plan("MODEL.WEIGHTS", weights, "INPUT.FORMAT", "BGR", eval_only=True)  # nothing is known about the file then


def test_detector_of_other_classes_is_refused_before_anything_is_written(run_dir: Path) -> None:
    found = plan("MODEL.WEIGHTS", str(run_dir / "model_final.pth"), eval_only=True)
    with pytest.raises(CheckpointError, match=r"detector not fully loaded .*classes"):
        verify_fits(found, load("MODEL.ROI_HEADS.NUM_CLASSES", "3"))


def test_backbone_alone_is_no_detector(tmp_path: Path, write_weights) -> None:
    found = plan("MODEL.WEIGHTS", str(write_weights()), eval_only=True)
    with pytest.raises(CheckpointError, match="detector not fully loaded"):
        verify_fits(found, load())


def test_damaged_record_beside_the_weights_is_said(run_dir: Path) -> None:
    (run_dir / "record.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"beside the weights: .*record\.json is not readable JSON"):
        plan("OUTPUT_DIR", str(run_dir), resume=True, eval_only=True)


def test_a_failed_download_says_how_to_do_without_it() -> None:
    explained = pytest.raises(CheckpointError, match=r"cannot download detectron2://x\.pkl.*name resolution.*--trust")
    with explained, explained_download("detectron2://x.pkl"):
        raise URLError("name resolution")
    with pytest.raises(OSError, match="disk"), explained_download("weights.pth"):  # a file's error is not a download's
        raise OSError("disk")
