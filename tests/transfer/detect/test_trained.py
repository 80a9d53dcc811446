"""Any detector is loaded whole or not at all, and its outputs have the names that somebody vouches for."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from pretrain.base.errors import CheckpointError, ConfigError
from tests.transfer.detect.tiny_detector import NAMES, SMALL, write_run
from transfer.detect.trained import load_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "masks")


def test_run_folder_and_its_file_are_one_detector(run: Path) -> None:
    folder, file = load_trained(str(run)), load_trained(str(run / "model_final.pth"))
    assert folder.weights == file.weights and folder.class_names == file.class_names == tuple(NAMES)
    assert folder.category_ids == (1, 2, 3) and folder.sha256 == file.sha256 is not None
    assert any("tensors loaded from" in note for note in folder.notes) and not folder.model.training


def test_unfinished_run_gives_its_newest_checkpoint_and_says_so(run: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(run, tmp_path / "run"))
    (unfinished / "model_final.pth").rename(unfinished / "model_0000099.pth")
    (unfinished / "last_checkpoint").write_text("model_0000099.pth")
    detector = load_trained(str(unfinished))
    assert detector.weights.endswith("model_0000099.pth") and any("has not ended" in note for note in detector.notes)
    (unfinished / "model_0000099.pth").unlink()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_trained(str(unfinished))
    shutil.copy(run / "model_final.pth", unfinished / "model_best.pth")  # all that somebody kept
    with pytest.raises(CheckpointError, match=r"but its best one: pass .*/model_best\.pth"):
        load_trained(str(unfinished))


def test_weights_that_do_not_fit_are_refused_with_their_number(run: Path, tmp_path: Path) -> None:
    torch.save({"model": {"something.else": torch.zeros(3)}, "class_names": NAMES}, tmp_path / "none.pth")
    shutil.copy(run / "config.yaml", tmp_path)
    with pytest.raises(CheckpointError, match=r"0 of (\d+) tensors"):
        load_trained(str(tmp_path / "none.pth"))
    content = torch.load(run / "model_final.pth")
    del content["model"]["roi_heads.box_predictor.cls_score.weight"]
    torch.save(content, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing in the file.*cls_score.weight"):
        load_trained(str(tmp_path / "part.pth"))


def test_a_file_alone_needs_its_configuration(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model_final.pth", tmp_path / "alone.pth")
    with pytest.raises(ConfigError, match="nothing says which network .* Pass --config-file"):
        load_trained(str(tmp_path / "alone.pth"))
    words = list(SMALL)
    del words[words.index("MODEL.ROI_HEADS.NUM_CLASSES") : words.index("MODEL.ROI_HEADS.NUM_CLASSES") + 2]
    detector = load_trained(str(tmp_path / "alone.pth"), config_file="demo/R_18_FPN.yaml", overrides=words)
    assert detector.class_names == tuple(NAMES)
    assert "MODEL.ROI_HEADS.NUM_CLASSES 3, as the detector has classes" in detector.notes


@pytest.mark.slow
def test_a_zoo_file_takes_cocos_names_and_numbers_and_says_that_they_are_assumed(tmp_path: Path) -> None:
    words = ("DATASETS.TEST", "('coco_2017_val',)", "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    run = write_run(tmp_path / "zoo", *words, names=None)
    content = torch.load(run / "model_final.pth")
    arrays = {name: value.numpy() for name, value in content["model"].items()}
    with (tmp_path / "model_final_1.pkl").open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)
    detector = load_trained(str(tmp_path / "model_final_1.pkl"), config_file=str(run / "config.yaml"))
    assert detector.class_names == tuple(MetadataCatalog.get("coco_2017_val").thing_classes)
    assert detector.category_ids[:13] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14)  # COCO has no 12
    assert any("ASSUMED to be those of coco_2017_val" in text for text in detector.warnings)
    named = load_trained(str(run), class_names=tuple(f"c{i}" for i in range(80)))
    assert named.category_ids == tuple(range(1, 81))


def test_what_returns_no_upright_boxes_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="SemanticSegmentor returns a class for every pixel"):
        load_trained(str(run), overrides=("MODEL.META_ARCHITECTURE", "SemanticSegmentor"))
    with pytest.raises(ConfigError, match="rotated boxes"):
        load_trained(str(run), overrides=("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"))


@pytest.mark.parametrize("file", [b"", b"not a checkpoint", b"PK\x03\x04cut"])
def test_damaged_weights_are_refused(run: Path, tmp_path: Path, file: bytes) -> None:
    shutil.copy(run / "config.yaml", tmp_path)
    (tmp_path / "model_final.pth").write_bytes(file)
    with pytest.raises(CheckpointError, match="model_final.pth"):
        load_trained(str(tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no config.yaml"):
        load_trained(str(tmp_path))
