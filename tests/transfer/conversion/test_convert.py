"""Conversion end to end: the file and its sidecar, both or neither, and Detectron2's own detectors take every tensor."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.record import read_record
from tests.transfer.conversion.checkpoints import (
    byol_deepmind,
    caffe2_with_statistics,
    detectron2_names,
    encoder_state,
    huggingface,
    ours,
    prefixed,
    pycontrast_jigsaw,
    save,
    simclr_port,
    stable_pretraining,
)
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion import convert as module
from transfer.conversion.convert import convert
from transfer.conversion.initialisation import initialisation_of
from transfer.conversion.names import DETECTRON2, HUGGING_FACE, Naming
from transfer.conversion.parity import prove
from transfer.conversion.sidecar import read_sidecar
from transfer.conversion.sources import load_backbone
from transfer.conversion.targets import TARGETS
from transfer.conversion.weight_files import file_sha256, read_weight_file
from transfer.detect.checks import backbone_names
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import resolve_config_path

OUTPUTS = {
    "detectron2": "out.pth",
    "pkl": "out.pkl",
    "torchvision": "out.pth",
    "timm": "out.safetensors",
    "huggingface": "out",
    "onnx": "out.onnx",
}
QUICK = {"detectron2"}  # the other libraries take seconds to import
ALL_TARGETS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OUTPUTS]
QUERY, KEY = tiny_state("tiny50", 0), tiny_state("tiny50", 1)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_architectures")]
# One file of every way from a file to Detectron2: names and contracts. That each layout's file becomes the right tensors under
# torchvision's names is shown for all of them in test_layouts.py.
CONVERTED = {
    "infomin-transfer": ours,
    "caffe2": caffe2_with_statistics,
    "byol-deepmind": byol_deepmind,
    "simclr-port": simclr_port,
    "detectron2-converted": detectron2_names,
    "stable-pretraining": stable_pretraining,
}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of ours."""
    torch.save(ours(QUERY, KEY, arch="tiny50"), tmp_path / "step.pt")
    return tmp_path / "step.pt"


@pytest.mark.parametrize(
    "layout",
    [
        name if name in ("infomin-transfer", "caffe2") else pytest.param(name, marks=pytest.mark.slow)
        for name in CONVERTED
    ],
)
def test_every_kind_of_file_converts_with_proof(tmp_path, layout):
    source = save(CONVERTED[layout](QUERY, KEY), tmp_path, layout=layout)
    sidecar = convert(source, tmp_path / "out.pth")
    assert sidecar.source["layout"] == layout
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content["matching_heuristics"] is True and content["__author__"]
    wanted = DETECTRON2.renamed({k: v for k, v in QUERY.items() if not k.endswith("num_batches_tracked")})
    assert set(content["model"]) == set(wanted)
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in wanted.items())
    assert sidecar.proof["tensors_placed"] == 265
    assert sidecar.source["sha256"] == file_sha256(source)
    assert read_sidecar(tmp_path / "out.pth") == sidecar and sidecar.weights_sha256 == file_sha256(tmp_path / "out.pth")


def weights_of(folder, target):
    """The one file with weights that a conversion to OUTPUTS[target] left in `folder`."""
    output = folder / OUTPUTS[target]
    return output / "model.safetensors" if output.is_dir() else output


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_every_target_is_published_with_its_sidecar_and_comes_back_bit_equal(tmp_path, target):
    checkpoint = tmp_path / "step.pt"  # of a network that all the libraries have
    torch.save(ours(encoder_state(seed=0), encoder_state(seed=1)), checkpoint)
    sidecar = convert(checkpoint, tmp_path / "new" / OUTPUTS[target], to=target)
    weights = weights_of(tmp_path / "new", target)
    assert read_sidecar(weights) == sidecar and sidecar.target == target
    assert sidecar.proof["tensors_placed"] == 100 and "the other branch" in sidecar.proof["negative_controls"]
    left = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert left == (["out"] if target == "huggingface" else sorted(["out.json", "out.record.json", OUTPUTS[target]]))
    record = read_record(
        tmp_path / "new" / "out" / "record.json" if target == "huggingface" else tmp_path / "new" / "out.record.json"
    )
    assert record.status == "done" and record.details["weights_sha256"] == sidecar.weights_sha256
    wanted = load_backbone(checkpoint).tensors
    if target == "huggingface":
        found = {k: v for k, v in HUGGING_FACE.read(read_weight_file(weights)).items() if k in wanted}
    elif target == "onnx":
        backbone = load_backbone(checkpoint)
        found = next(entry for entry in TARGETS if entry.name == "onnx").load(weights, backbone).tensors()
    else:
        found = load_backbone(weights).tensors
    assert set(found) == set(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)
    if target in ("pkl", "torchvision", "timm"):  # A -> B -> A: the same bytes as straight from the source
        convert(weights, tmp_path / "again.pth")
        convert(checkpoint, tmp_path / "straight.pth")
        again, straight = (torch.load(tmp_path / f"{n}.pth", weights_only=True)["model"] for n in ("again", "straight"))
        assert list(again) == list(straight) and all(torch.equal(again[name], straight[name]) for name in straight)


@pytest.mark.slow
def test_a_folder_is_replaced_whole_and_only_when_it_is_ours(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "hf", to="huggingface")
    with pytest.raises(ConfigError, match="--overwrite"):
        convert(checkpoint, tmp_path / "hf", to="huggingface", branch="key")
    sidecar = convert(checkpoint, tmp_path / "hf", to="huggingface", branch="key", overwrite=True)
    assert read_sidecar(tmp_path / "hf" / "model.safetensors") == sidecar and sidecar.source["branch"] == "key"
    (tmp_path / "hf" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds other files \(thesis\.tex\)"):
        convert(checkpoint, tmp_path / "hf", to="huggingface", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "step.pt"]


@pytest.mark.parametrize("stop", [CheckpointError("the proof failed"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("target", ["detectron2", pytest.param("huggingface", marks=pytest.mark.slow)])
def test_a_target_that_is_not_proven_leaves_what_was_there(tmp_path, checkpoint, monkeypatch, target, stop):
    def fail(*_, **__):
        assert len(list(tmp_path.glob(".*"))) == 2  # the control: the draft and its record are there, and hidden
        raise stop

    old = tmp_path / OUTPUTS[target]
    if target == "huggingface":
        old.mkdir()
        old = old / "config.json"
    old.write_text("old")
    monkeypatch.setattr(module, "prove", fail)
    with pytest.raises(type(stop)):
        convert(checkpoint, tmp_path / OUTPUTS[target], to=target, overwrite=True)
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([OUTPUTS[target], "step.pt"])


def test_ctrl_c_between_the_two_renames_of_a_folder_brings_the_old_one_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    (tmp_path / ".draft").mkdir()
    rename = Path.rename

    def interrupted(self, target):
        if self.name == ".draft":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module._publish_folder(tmp_path / ".draft", tmp_path / "out")
    assert (tmp_path / "out" / "old").exists() and not (tmp_path / ".draft.old").exists()


def test_two_outputs_do_not_share_one_sidecar(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    with pytest.raises(ConfigError, match=r"out\.json is the sidecar of .*out\.pth; pass an OUTPUT of another name"):
        convert(checkpoint, tmp_path / "out.pkl", to="pkl", overwrite=True)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mine\.json exists and is no sidecar"):
        convert(checkpoint, tmp_path / "mine.pth")
    assert (tmp_path / "mine.json").read_text() == "{}" and read_sidecar(tmp_path / "out.pth")


@pytest.mark.parametrize(
    ("to", "output", "message"),
    [
        ("onnx", "w.pth", r"ends in \.onnx for onnx .*pass .*w\.onnx, or --to detectron2 or torchvision"),
        ("detectron2", "w.onnx", r"pass .*w\.pth, or --to onnx"),
        ("huggingface", "w.safetensors", r"name of a folder for huggingface.*pass .*/w, or --to timm"),
        ("huggingface", "taken", "is a file; expected a folder"),
        ("keras", "w.h5", "--to expected one of detectron2, pkl"),
    ],
)
def test_an_output_that_does_not_fit_its_target_says_what_to_type(tmp_path, checkpoint, to, output, message):
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match=message):
        convert(checkpoint, tmp_path / output, to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.pt", "taken"]


def test_the_key_branch_is_converted_when_asked(tmp_path, checkpoint):
    sidecar = convert(checkpoint, tmp_path / "key.pth", branch="key")
    model = torch.load(tmp_path / "key.pth", weights_only=True)["model"]
    assert torch.equal(model["stem.conv1.weight"], KEY["conv1.weight"]) and sidecar.source["branch"] == "key"


def test_converted_weights_are_read_back_with_torchvision_names(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    back = load_backbone(tmp_path / "out.pth")
    assert back.layout == "infomin-transfer-converted" and back.contract == load_backbone(checkpoint).contract
    assert all(torch.equal(tensor, QUERY[name]) for name, tensor in back.tensors.items())


def test_converted_weights_without_their_sidecar_are_refused(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    (tmp_path / "out.json").unlink()
    with pytest.raises(CheckpointError, match="no sidecar"):
        load_backbone(tmp_path / "out.pth")


def detector_config(name):
    """Our configuration, or for DC5 the model zoo's, which we do not ship; both as the infomin weights want them."""
    over = (
        "MODEL.DEVICE",
        "cpu",
        "MODEL.RESNETS.NORM",
        "BN",
        "MODEL.WEIGHTS",
        "",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        False,
    )
    if not name.startswith("COCO-Detection/"):
        return load_detector_config(resolve_config_path(name), tuple(map(str, over)))
    config = model_zoo.get_config(name)
    config.merge_from_list(list(over))
    assert config.MODEL.RESNETS.RES5_DILATION == 2
    return config


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    """Converted weights of a ResNet-50, once for all detectors."""
    folder, query = tmp_path_factory.mktemp("r50"), encoder_state("resnet50")
    torch.save(pycontrast_jigsaw(query, query), folder / "infomin.pth")
    assert convert(folder / "infomin.pth", folder / "w.pth").proof["tensors_placed"] == 265
    return folder / "w.pth"


@pytest.mark.slow
@pytest.mark.parametrize(
    "config_file",
    [
        "coco/R_50_FPN_1x.yaml",
        "coco/R_50_C4_1x.yaml",
        "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml",
    ],
)
def test_all_265_tensors_of_a_resnet50_reach_the_detector(tmp_path, resnet50, config_file):
    model = build_model(detector_config(config_file))
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.ERROR)
    names = backbone_names(model)
    content = torch.load(resnet50, weights_only=True)
    wanted = content["model"]
    assert sorted(names.values()) == sorted(wanted) and len(wanted) == 265

    def loaded(path):
        for tensor in model.state_dict().values():
            tensor.fill_(7)
        DetectionCheckpointer(model).load(str(path))
        return sum(torch.equal(model.state_dict()[name], wanted[short]) for name, short in names.items())

    assert loaded(resnet50) == 265
    # The controls: without the flag Detectron2 finds none of them and says so in a log line only; one less is one less.
    torch.save({**content, "matching_heuristics": False}, tmp_path / "blind.pth")
    assert loaded(tmp_path / "blind.pth") == 0
    one_less = {name: tensor for name, tensor in wanted.items() if name != "res5.2.conv3.weight"}
    torch.save({**content, "model": one_less}, tmp_path / "short.pth")
    assert loaded(tmp_path / "short.pth") == 264


def test_the_record_says_what_was_converted_how_far_it_agrees_and_where_it_came_from(tmp_path, checkpoint):
    sidecar = convert(checkpoint, tmp_path / "out.pth", command="python tools/convert_weights.py step.pt out.pth")
    record = read_record(tmp_path / "out.record.json")
    assert (record.kind, record.status, record.config["to"]) == ("conversion", "done", "detectron2")
    assert record.figures["tensors_placed"] == record.figures["tensors_expected"] == 265
    differences = {f"difference/{stage}": value for stage, value in sidecar.proof["relative_difference"].items()}
    assert differences.items() <= record.figures.items() and "difference/res5" in differences
    start = record.initialisation
    assert (start.name, start.source, start.layout, start.sha256) == (
        "infomin",
        "checkpoint",
        "infomin-transfer",
        file_sha256(checkpoint),
    )
    assert start.pretraining == sidecar.source["pretraining"] and record.seeds == {"run": None, "pretraining": 0}
    assert record.commands == ("python tools/convert_weights.py step.pt out.pth",)


def test_a_conversion_runs_under_a_record_that_names_its_holder(tmp_path, checkpoint, monkeypatch):
    """What a killed one leaves: hidden, beside the unpublished weights."""
    seen = []

    def look(*arguments, **options):
        seen.append(read_record(next(tmp_path.glob(".out.*.record.json"))))
        return prove(*arguments, **options)

    monkeypatch.setattr(module, "prove", look)
    convert(checkpoint, tmp_path / "out.pth")
    assert seen[0].status == "running" and seen[0].holder["pid"] == os.getpid()
    assert not list(tmp_path.glob(".*"))


def test_a_record_is_replaced_whole_with_its_weights(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth", command="first")
    convert(checkpoint, tmp_path / "out.pth", branch="key", overwrite=True, command="second")
    record = read_record(tmp_path / "out.record.json")
    assert record.commands == ("second",) and record.details["branch"] == "key"
    (tmp_path / "out.record.json").write_text("damaged")
    with pytest.raises(ConfigError, match="--overwrite"):
        convert(checkpoint, tmp_path / "out.pth")
    convert(checkpoint, tmp_path / "out.pth", overwrite=True)
    assert read_record(tmp_path / "out.record.json").status == "done"


def test_a_file_that_is_no_record_is_not_written_over(tmp_path, checkpoint):
    (tmp_path / "out.record.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"out\.record\.json exists and is no record of a conversion"):
        convert(checkpoint, tmp_path / "out.pth")
    assert (tmp_path / "out.record.json").read_text() == "{}" and not (tmp_path / "out.pth").exists()


def test_a_disk_that_is_full_at_the_sidecar_publishes_nothing(tmp_path, checkpoint, monkeypatch):
    convert(checkpoint, tmp_path / "out.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        convert(checkpoint, tmp_path / "out.pth", branch="key", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_seed_and_hash_of_the_pretraining_travel_through_every_conversion(tmp_path, checkpoint):
    first = convert(checkpoint, tmp_path / "out.pth").source["pretraining"]
    again = convert(tmp_path / "out.pth", tmp_path / "again.pth").source
    assert again["pretraining"] == first == initialisation_of(str(checkpoint)).pretraining and first["seed"] == 0
    assert again["method"] == "infomin"
    assert convert(checkpoint, tmp_path / "key.pth", branch="key").source["pretraining"]["hash"] != first["hash"]


def test_a_flat_file_of_any_method_has_no_name_until_it_is_stated(tmp_path):
    torch.save(QUERY, tmp_path / "dino_resnet50_pretrain.pth")
    sidecar = convert(tmp_path / "dino_resnet50_pretrain.pth", tmp_path / "out.pth")
    assert sidecar.source["layout"] == "torchvision" and initialisation_of(str(tmp_path / "out.pth")).name == "unknown"
    convert(tmp_path / "dino_resnet50_pretrain.pth", tmp_path / "out.pth", method="dino", overwrite=True)
    assert initialisation_of(str(tmp_path / "out.pth")).name == "dino"
    assert read_record(tmp_path / "out.record.json").initialisation.source == "asked"


def test_a_folder_of_hugging_face_is_read_as_its_weights(tmp_path):
    (tmp_path / "model").mkdir()
    save(huggingface(QUERY, KEY), tmp_path / "model", layout="huggingface").rename(
        tmp_path / "model" / "pytorch_model.bin"
    )
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    sidecar = convert(tmp_path / "model", tmp_path / "out.pth")
    assert sidecar.source["layout"] == "huggingface" and sidecar.contract.mean == (0.5, 0.4, 0.3)


def test_a_failed_proof_leaves_nothing_behind(tmp_path, checkpoint, monkeypatch):
    def fail(*_, **__):
        raise CheckpointError("the proof failed")

    monkeypatch.setattr(module, "prove", fail)
    (tmp_path / "weights").mkdir()
    with pytest.raises(CheckpointError, match="the proof failed"):
        convert(checkpoint, tmp_path / "weights" / "out.pth")
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_failed_conversion_keeps_what_was_there(tmp_path, checkpoint, monkeypatch):
    convert(checkpoint, tmp_path / "out.pth")
    before = (tmp_path / "out.pth").read_bytes(), (tmp_path / "out.json").read_bytes()
    broken = ours(QUERY, KEY, arch="tiny50")
    del broken["model"]["query.encoder.layer4.1.bn2.bias"]
    torch.save(broken, checkpoint)
    with pytest.raises(CheckpointError, match=r"layer4\.1\.bn2\.bias"):
        convert(checkpoint, tmp_path / "out.pth", overwrite=True)
    assert ((tmp_path / "out.pth").read_bytes(), (tmp_path / "out.json").read_bytes()) == before


def test_an_output_that_exists_is_replaced_only_when_asked(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    with pytest.raises(ConfigError, match=r"exists; .*--overwrite"):
        convert(checkpoint, tmp_path / "out.pth", branch="key")
    assert convert(checkpoint, tmp_path / "out.pth", branch="key", overwrite=True) == read_sidecar(tmp_path / "out.pth")


def test_a_mistake_in_the_table_of_names_cannot_pass(tmp_path, checkpoint, monkeypatch):
    """Both directions are of one table, so names alone would agree: the forward pass must see it."""
    a, b = "layer1.1.conv2.weight", "layer1.2.conv2.weight"
    names = {**DETECTRON2.names, a: DETECTRON2.names[b], b: DETECTRON2.names[a]}
    monkeypatch.setitem(DETECTRON2.__dict__, "names", names)
    monkeypatch.setitem(DETECTRON2.__dict__, "inverse", {theirs: ours for ours, theirs in names.items()})
    with pytest.raises(CheckpointError, match="computes something else"):
        convert(checkpoint, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_a_mistake_of_the_writer_cannot_pass(tmp_path, checkpoint, monkeypatch):
    def swapped(self, tensors):
        a, b = "layer1.1.conv2.weight", "layer1.2.conv2.weight"
        return {self.names[name]: tensors[{a: b, b: a}.get(name, name)] for name in tensors}

    monkeypatch.setattr(Naming, "renamed", swapped)
    with pytest.raises(CheckpointError, match=r"263 of 265 .*layer1\.1\.conv2\.weight, layer1\.2\.conv2\.weight"):
        convert(checkpoint, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_another_copy_of_an_unknown_file_is_converted_when_asked(tmp_path):
    one, two = (prefixed(state, f"{name}.") for name, state in (("one", QUERY), ("two", KEY)))
    torch.save({"nets": {**one, **two}}, tmp_path / "in.pth")
    sidecar = convert(tmp_path / "in.pth", tmp_path / "out.pth", branch="nets/two")
    assert sidecar.source["branch"] == "nets/two" and sidecar.proof["negative_controls"]["the other branch"] > 1e-4


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path, checkpoint):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    for output, message in {
        "out.pkl": r"ends in \.pth.*pass .*out\.pth",
        "folder.pth": "is a folder",
        "file/out.pth": "cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            convert(checkpoint, tmp_path / output)
    checkpoint.rename(tmp_path / "same.pth")
    with pytest.raises(ConfigError, match="the same file"):
        convert(tmp_path / "same.pth", tmp_path / "same.pth")


def test_the_sidecar_is_strict_json_for_other_programs(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    values = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert values["contract"]["stride_in_1x1"] is False and values["detectron2"]["MODEL.RESNETS.DEPTH"] == 50
