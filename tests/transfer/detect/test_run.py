"""A detection run: checked before anything is written, recorded from the first step on, gone on with as it began."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from pretrain.base.atomic import LOCK
from pretrain.base.errors import CheckpointError, ConfigError, DataError, Terminated, UserError
from pretrain.base.record import Initialisation, OpenRecord, Record, end_record, read_record
from pretrain.base.signals import StopFlag, ending_on_sigterm
from transfer.data.coco import read_coco
from transfer.data.problems import ReadOptions
from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.write import write_dataset
from transfer.detect.coco_evaluation import ENGINES
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.options import RunOptions
from transfer.detect.progress import Progress
from transfer.detect.run import (
    enter_process,
    open_output_dir,
    prepare_run,
    run_detection,
)
from transfer.detect.trainer import DetectionTrainer

SMALL = "demo/R_18_FPN.yaml"
BACKWARDS = tuple(reversed(CLASS_NAMES))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Four labelled scenes in both layouts: read only."""
    root = tmp_path_factory.mktemp("data") / "demo"
    write_dataset(
        SyntheticConfig(num_unlabelled=8, num_readout=8, num_train_scenes=4, num_test_scenes=2), root, num_workers=1
    )
    return root


def spec(root: Path, kind: str, split: str) -> str:
    return {
        "coco": f"coco:{root}/coco/annotations/instances_{split}.json:{root}/coco/{split}",
        "voc": f"voc:{root}/voc:{split}",
    }[kind]


@pytest.fixture
def options(written: Path, tmp_path: Path):
    """Function: kinds of data, KEY VALUE words -> options of a run into tmp_path/run, from random weights where none are named."""

    def build(
        *words: str, train: str | None = "coco", test: str | None = "coco", run: str = SMALL, **over
    ) -> RunOptions:
        if "MODEL.WEIGHTS" not in words and not over.get("eval_only"):
            over.setdefault("init", "random")
        return RunOptions(
            config_file=run,
            overrides=("OUTPUT_DIR", str(tmp_path / "run"), *words),
            train_data=spec(written, train, "train") if train else None,
            test_data=spec(written, test, "test") if test else None,
            **over,
        )

    return build


def edit_json(source: str, target: Path, change) -> str:
    """A COCO spec whose annotation file is a changed copy."""
    kind, path, images = source.split(":")
    content = json.loads(Path(path).read_text())
    change(content)
    target.write_text(json.dumps(content))
    return f"{kind}:{target}:{images}"


def test_data_decide_classes_and_names_and_the_configuration_is_frozen(options) -> None:
    run = prepare_run(options())
    assert run.config.MODEL.ROI_HEADS.NUM_CLASSES == len(CLASS_NAMES) == 8
    assert (run.data.train_name,) == run.config.DATASETS.TRAIN and (run.data.test_name,) == run.config.DATASETS.TEST
    assert run.config.MODEL.MASK_ON and run.config.is_frozen()


def test_nothing_is_written_while_a_run_is_prepared(options, tmp_path: Path) -> None:
    prepare_run(options())
    assert list(tmp_path.iterdir()) == []


def test_boxes_alone_switch_masks_off_and_say_so(options) -> None:
    run = prepare_run(options(train="voc", test="voc"))
    assert not run.config.MODEL.MASK_ON and "the data have boxes only: MODEL.MASK_ON False" in run.notes
    with pytest.raises(ConfigError, match="MODEL.MASK_ON True, but the data have no masks"):
        prepare_run(options("MODEL.MASK_ON", "True", train="voc", test="voc"))


def test_number_of_classes_that_contradicts_the_data_is_refused(options) -> None:
    with pytest.raises(
        ConfigError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES is 80, but the data have 8 classes: butterfly"
    ):
        prepare_run(options("MODEL.ROI_HEADS.NUM_CLASSES", "80"))
    prepare_run(options("MODEL.ROI_HEADS.NUM_CLASSES", "8"))


def test_run_lengths_switch_to_bitmasks(options, tmp_path: Path) -> None:
    def encode(content) -> None:
        thing = content["annotations"][0]
        thing["segmentation"] = {"size": [192, 192], "counts": [0, 192 * 192]}

    given = options()
    changed = edit_json(given.train_data, tmp_path / "rle.json", encode)
    run = prepare_run(replace(given, train_data=changed))
    assert run.config.INPUT.MASK_FORMAT == "bitmask" and any("run-length" in note for note in run.notes)


def test_half_masked_training_data_are_refused_and_test_data_measured_by_boxes(options, tmp_path: Path) -> None:
    def strip(content) -> None:
        content["annotations"][0]["segmentation"] = []

    given = options()
    bad_train = edit_json(given.train_data, tmp_path / "train.json", strip)
    with pytest.raises(DataError, match="complete them, or pass MODEL.MASK_ON False"):
        prepare_run(replace(given, train_data=bad_train))
    bad_test = edit_json(given.test_data, tmp_path / "test.json", strip)
    run = prepare_run(replace(given, test_data=bad_test))
    assert run.config.MODEL.MASK_ON and any("mask AP is not measured" in note for note in run.notes)
    assert not MetadataCatalog.get(run.data.test_name).can_evaluate_masks
    kept = run.record.details["data_notes"]
    assert any(note.startswith("test data: ") and "objects without a mask: 1" in note for note in kept)


def test_training_without_test_data_says_that_nothing_is_measured(options) -> None:
    run = prepare_run(options(test=None))
    assert run.config.DATASETS.TEST == () and any("AP is not measured" in warning for warning in run.warnings)


def test_test_data_alone_cannot_train(options) -> None:
    with pytest.raises(ConfigError, match="--test-data is given without --train-data"):
        prepare_run(options(train=None))


@pytest.mark.parametrize("text", ["coco:x", "my/data", "voc:/absent/voc:train"])
def test_wrong_spec_is_refused_before_anything_is_written(options, tmp_path: Path, text: str) -> None:
    given = options()
    with pytest.raises(UserError, match="expected coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT"):
        prepare_run(replace(given, train_data=text))
    assert list(tmp_path.iterdir()) == []


def test_seed_is_drawn_once_and_recorded(options) -> None:
    run = prepare_run(options("SEED", "-1"))
    assert run.config.SEED >= 0 and f"no SEED given: drew SEED {run.config.SEED}" in run.notes


def test_one_process_is_told_that_syncbn_is_bn(options) -> None:
    run = prepare_run(options("MODEL.DEVICE", "cpu", run="coco/R_50_FPN_1x.yaml"))
    assert any("SyncBN has one process" in note for note in run.notes)


def test_weights_without_sidecar_stop_the_run(options, tmp_path: Path) -> None:
    torch.save({"model": {"stem.conv1.weight": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="has no sidecar"):
        prepare_run(options("MODEL.WEIGHTS", str(tmp_path / "w.pth")))
    with pytest.raises(UserError, match="backbone not fully loaded"):
        prepare_run(options("MODEL.WEIGHTS", str(tmp_path / "w.pth"), trust=True))
    assert not (tmp_path / "run").exists()


# --- built-in data sets -----------------------------------------------------------------------------------------------


def test_built_in_data_that_are_not_there_say_where_they_are_expected(options, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"coco_2017_train expects .*instances_train2017\.json.* Set DETECTRON2_DATASETS"
    ):
        prepare_run(options(train=None, test=None, run="coco/R_50_FPN_1x.yaml"))
    with pytest.raises(DataError, match=r"voc_2007_trainval expects .*VOC2007"):
        prepare_run(options(train=None, test=None, run="voc/R_50_C4_24k.yaml"))


def test_unknown_built_in_name_is_refused(options) -> None:
    with pytest.raises(DataError, match=r"no data set 'coco_2099' in Detectron2's catalog"):
        prepare_run(options("DATASETS.TRAIN", "('coco_2099',)", train=None, test=None))


def test_keypoints_that_the_data_do_not_have_are_refused(options) -> None:
    with pytest.raises(
        ConfigError, match=r"no keypoints; pass MODEL.KEYPOINT_ON False, or .*keypoints_coco_2017_train"
    ):
        prepare_run(options("MODEL.KEYPOINT_ON", "True"))
    DatasetCatalog.register("boxes_of_the_tests", lambda: [])
    MetadataCatalog.get("boxes_of_the_tests").set(thing_classes=["person"], evaluator_type="coco")
    try:
        words = ("DATASETS.TRAIN", "('boxes_of_the_tests',)", "DATASETS.TEST", "('boxes_of_the_tests',)")
        with pytest.raises(ConfigError, match="the data set boxes_of_the_tests has no keypoints"):
            prepare_run(options("MODEL.KEYPOINT_ON", "True", *words, train=None, test=None))
        prepare_run(options(*words, train=None, test=None))
    finally:
        DatasetCatalog.remove("boxes_of_the_tests")
        MetadataCatalog.remove("boxes_of_the_tests")


# --- evaluation alone -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> dict[str, torch.Tensor]:
    """The tensors of a detector of eight classes."""
    config = load_detector_config(CONFIG_ROOT / SMALL, ["MODEL.ROI_HEADS.NUM_CLASSES", "8", "MODEL.DEVICE", "cpu"])
    return build_model(config).state_dict()


@pytest.fixture
def finished(detector, tmp_path: Path) -> Path:
    """A folder as a finished run leaves it, whose detector numbers the classes backwards."""
    run = tmp_path / "run"
    run.mkdir()
    config = load_detector_config(CONFIG_ROOT / SMALL, ["MODEL.ROI_HEADS.NUM_CLASSES", "8"])
    torch.save({"model": detector, "class_names": list(BACKWARDS)}, run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    (run / "config.yaml").write_text(config.dump())
    start = Initialisation("moco", "sidecar")
    about = Record("detection", {}, {}, seeds={"run": 5}, class_names=BACKWARDS, initialisation=start)
    OpenRecord(run / "record.json", about).finish({"bbox/AP": 1.0})
    return run


def test_evaluation_keeps_classes_initialisation_seed_and_files_of_the_run(options, finished: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    run = prepare_run(options(train=None, eval_only=True, resume=True))
    assert run.data.class_names == run.record.class_names == BACKWARDS
    assert run.record.initialisation.name == "moco" and run.record.seeds["run"] == 5
    with open_output_dir(run.options, run.config) as folder:
        assert folder == finished / "evaluation"
    shutil.rmtree(folder)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def evaluated(options, weights: Path, *, classes: tuple[str, ...] | None = None):
    words = ("MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(weights.parent / "evaluated"))
    return prepare_run(options(*words, train=None, eval_only=True, read=ReadOptions(class_names=classes)))


def first_class(run) -> str:
    """The name of the first labelled object's class by the order that is evaluated."""
    record = next(record for record in DatasetCatalog.get(run.data.test_name) if record["annotations"])
    return run.record.class_names[record["annotations"][0]["category_id"]]


def test_a_copied_weight_file_brings_its_class_order_with_it(options, finished: Path, tmp_path: Path) -> None:
    """A detector that numbers dog and cat otherwise than the test file is evaluated by its own numbers."""
    copy = Path(shutil.copy(finished / "model_final.pth", tmp_path / "copy.pth"))
    run = evaluated(options, copy)
    assert run.record.class_names == BACKWARDS and run.warnings == ()
    name = first_class(run)
    as_the_file_says = prepare_run(options("OUTPUT_DIR", str(tmp_path / "other")))
    assert as_the_file_says.record.class_names == CLASS_NAMES and first_class(as_the_file_says) == name


def test_an_unfinished_run_is_evaluated_by_the_names_of_its_checkpoint(options, finished: Path) -> None:
    (finished / "record.json").unlink()
    run = prepare_run(options(train=None, eval_only=True, resume=True))
    assert run.record.class_names == BACKWARDS


def test_weights_that_name_no_classes_are_refused_unless_classes_are_given(options, detector, tmp_path: Path) -> None:
    torch.save({"model": detector}, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match=f"holds no class names.*is --classes {','.join(CLASS_NAMES)}"):
        evaluated(options, tmp_path / "old.pth")
    run = evaluated(options, tmp_path / "old.pth", classes=BACKWARDS)
    assert run.record.class_names == BACKWARDS
    assert any("ASSUMED" in warning and ", ".join(BACKWARDS) in warning for warning in run.warnings)


def test_classes_that_contradict_the_checkpoint_are_refused(options, finished: Path) -> None:
    with pytest.raises(ConfigError, match="but the classes of .*model_final.pth are mushroom"):
        evaluated(options, finished / "model_final.pth", classes=CLASS_NAMES)
    evaluated(options, finished / "model_final.pth", classes=BACKWARDS)


def test_a_record_of_other_classes_does_not_speak_for_a_copied_file(options, finished: Path, detector) -> None:
    torch.save({"model": detector, "class_names": list(CLASS_NAMES)}, finished / "copied.pth")
    run = evaluated(options, finished / "copied.pth")
    assert run.record.class_names == CLASS_NAMES and run.record.initialisation.name != "moco"


def test_built_in_data_of_other_classes_are_refused(options, finished: Path) -> None:
    records = [{"file_name": "a.png", "image_id": 1, "height": 2, "width": 2, "annotations": []}]
    DatasetCatalog.register("built_in_of_the_tests", lambda: records)
    MetadataCatalog.get("built_in_of_the_tests").set(thing_classes=list(CLASS_NAMES), evaluator_type="coco")
    try:
        words = ("MODEL.WEIGHTS", str(finished / "model_final.pth"), "DATASETS.TEST", "('built_in_of_the_tests',)")
        words = (*words, "OUTPUT_DIR", str(finished / "evaluated"), "MODEL.ROI_HEADS.NUM_CLASSES", "8")
        with pytest.raises(ConfigError, match="the detector's classes are mushroom.*--test-data SPEC"):
            prepare_run(options(*words, train=None, test=None, eval_only=True))
    finally:
        DatasetCatalog.remove("built_in_of_the_tests")
        MetadataCatalog.remove("built_in_of_the_tests")


def test_evaluation_by_file_name_needs_a_folder_of_its_own(options, finished: Path, tmp_path: Path) -> None:
    weights = ("MODEL.WEIGHTS", str(finished / "model_final.pth"))
    run = prepare_run(options(*weights, train=None, eval_only=True))
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR .*run is in use"), open_output_dir(run.options, run.config):
        pass
    other = prepare_run(options(*weights, "OUTPUT_DIR", str(tmp_path / "other"), train=None, eval_only=True))
    with open_output_dir(other.options, other.config) as folder:
        assert folder == tmp_path / "other"


def test_evaluation_needs_data(options, finished: Path) -> None:
    words = ("MODEL.WEIGHTS", str(finished / "model_final.pth"), "DATASETS.TEST", "()")
    with pytest.raises(ConfigError, match="--eval-only needs data"):
        prepare_run(options(*words, train=None, test=None, eval_only=True))


# --- the folder -------------------------------------------------------------------------------------------------------


def test_folder_in_use_is_refused_and_left_alone(options, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run = prepare_run(options())
    message = r"is in use \(it holds notes\.txt\); pass OUTPUT_DIR and another folder, or --resume"
    with pytest.raises(ConfigError, match=message), open_output_dir(run.options, run.config):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_folder_is_one_runs_at_a_time(options, tmp_path: Path) -> None:
    run = prepare_run(options("OUTPUT_DIR", str(tmp_path / "a" / "b")))
    with open_output_dir(run.options, run.config) as folder:
        assert folder == tmp_path / "a" / "b" and {path.name for path in folder.iterdir()} <= {LOCK}
        with pytest.raises(ConfigError, match="another running process"), open_output_dir(run.options, run.config):
            pass
    with open_output_dir(run.options, run.config):  # let go of, and nothing was written
        pass


def test_folder_that_cannot_be_written_is_said(options, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        run = prepare_run(options("OUTPUT_DIR", str(place)))
        with pytest.raises(ConfigError, match=f"{place}"), open_output_dir(run.options, run.config):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission_is_said(options, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    run = prepare_run(options())
    with pytest.raises(ConfigError, match="Permission denied"), open_output_dir(run.options, run.config):
        pass


# --- the record -------------------------------------------------------------------------------------------------------


def killed(trainer) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted(trainer) -> None:
    raise KeyboardInterrupt


def terminated(trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert trainer.stop.is_set  # it does not end the training where it happens to be
    raise trainer.stop.terminated("saved")


def failed(trainer) -> None:
    raise DataError("a.jpg: damaged")


def trained(trainer) -> None:
    trainer.iterations_done = trainer.config.SOLVER.MAX_ITER
    trainer._last_eval_results = {"bbox": {"AP": 12.5, "AP50": float("nan")}}


@pytest.fixture
def execute(monkeypatch):
    """Function: a run, what its training does after three iterations -> the record before the first of them."""

    def start(run, training, *, start_iter: int = 0) -> Record:
        seen = []

        class Trainer:
            model = torch.nn.Linear(1, 1)
            metric = staticmethod(DetectionTrainer.metric)

            def __init__(self, config, *, accumulate: int, stop: StopFlag) -> None:
                seen.append(read_record(Path(config.OUTPUT_DIR) / "record.json"))
                assert accumulate == 1
                self.progress, self.stop = Progress(), stop
                self.config, self.iterations_done, self.start_iter = config, start_iter + 3, start_iter

            def resume_or_load(self, resume: bool) -> None: ...

            def train(self) -> None:
                training(self)

        places = {"DetectionTrainer": Trainer, "default_setup": lambda *_: None, "collect_samples": lambda *_: []}
        places |= {"verify_loaded": lambda *_: "", "setup_logger": lambda *_, **__: logging.getLogger("detectron2")}
        for name, value in places.items():
            monkeypatch.setattr(f"transfer.detect.run.{name}", value)
        with open_output_dir(run.options, run.config), ending_on_sigterm():
            run_detection(run)
        return seen[0]

    return start


def record_of(run) -> Record:
    return read_record(Path(run.config.OUTPUT_DIR) / "record.json")


def test_the_record_says_what_computed_the_ap(options, execute, tmp_path) -> None:
    def evaluate_at_the_end(trainer) -> None:
        trained(trainer)
        folder = Path(trainer.config.OUTPUT_DIR) / "inference"
        folder.mkdir()
        (folder / ENGINES).write_text('{"bbox": {"name": "hotcoco", "version": "1.3.0", "reason": ""}}')

    run = prepare_run(options("OUTPUT_DIR", str(tmp_path / "run")))
    execute(run, evaluate_at_the_end)
    assert record_of(run).details["evaluated_by"]["bbox"]["name"] == "hotcoco"


def test_a_run_is_recorded_before_its_first_step_and_completed_at_its_end(options, execute, tmp_path) -> None:
    words = (
        "SEED",
        "7",
        "SOLVER.IMS_PER_BATCH",
        "2",
        "OUTPUT_DIR",
        str(tmp_path / "run_lr0.5"),
    )  # a folder all the same
    run = prepare_run(options(*words, command="python tools/train_net.py"))
    begun = execute(run, trained)
    assert (begun.status, begun.holder["pid"]) == ("running", os.getpid()) and begun.class_names == CLASS_NAMES
    assert begun.seeds["run"] == 7 and set(begun.data) == {"train", "test"} and begun.metric == "COCO AP, IoU .50:.95"
    ended = record_of(run)
    assert (ended.status, ended.hash) == ("done", begun.hash)
    assert ended.figures == {"bbox/AP": 12.5, "bbox/AP50": None}
    assert ended.cost.images == 2 * run.config.SOLVER.MAX_ITER and ended.cost.seconds > 0
    assert ended.details["iterations"] == run.config.SOLVER.MAX_ITER and ended.details["num_train_images"] == 4
    assert not (Path(run.config.OUTPUT_DIR) / "result.json").exists()


@pytest.mark.parametrize(
    ("training", "error", "status"),
    [(interrupted, KeyboardInterrupt, "stopped"), (terminated, Terminated, "stopped"), (failed, DataError, "failed")],
)
def test_a_run_that_ends_early_says_how_and_what_it_cost(options, execute, training, error, status) -> None:
    run = prepare_run(options())
    with pytest.raises(error):
        execute(run, training)
    record = record_of(run)
    assert record.status == status and record.figures == {} and record.details["iterations"] == 3
    assert record.cost.images == 3 * run.config.SOLVER.IMS_PER_BATCH


def test_a_killed_run_is_recorded_as_running_with_its_holder(options, execute) -> None:
    run = prepare_run(options())
    child = os.fork()
    if not child:
        execute(run, killed)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    record = record_of(run)
    assert (record.status, record.holder["pid"], record.ended) == ("running", child, None)
    end_record(Path(run.config.OUTPUT_DIR) / "record.json", "failed", "a worker was killed")  # what a launcher does
    assert (record_of(run).status, record_of(run).error) == ("failed", "a worker was killed")


def test_the_figures_are_safe_before_a_picture_is_drawn(options, execute, monkeypatch, caplog) -> None:
    run = prepare_run(options())

    def fails(*_: object) -> None:
        assert record_of(run).status == "done" and record_of(run).figures["bbox/AP"] == 12.5
        raise OSError("no space left")

    monkeypatch.setattr("transfer.detect.run.write_samples", fails)
    execute(run, trained)
    assert any("no samples.json" in line.message and line.levelname == "WARNING" for line in caplog.records)


# --- going on with a run ----------------------------------------------------------------------------------------------


@pytest.fixture
def begun(options, execute):
    """Function: KEY VALUE words -> a run that began with them and was stopped."""

    def begin(*words: str) -> None:
        with pytest.raises(KeyboardInterrupt):
            execute(prepare_run(options(*words)), interrupted)

    return begin


@pytest.mark.parametrize(
    ("key", "value"),
    [("SOLVER.BASE_LR", "0.5"), ("SEED", "3"), ("SOLVER.MAX_ITER", "500"), ("INPUT.MIN_SIZE_TRAIN", "(64,)")],
)
def test_other_values_are_refused_on_resume_unless_allowed_and_recorded(options, begun, execute, key, value) -> None:
    begun()
    with pytest.raises(ConfigError, match=rf"{key}: .* there, .* now.*--allow-change KEY"):
        prepare_run(options(key, value, resume=True))
    run = prepare_run(options(key, value, resume=True, allow_change=(key,)))
    execute(run, trained)
    (change,) = record_of(run).details["changes"]
    assert change.startswith(f"{key}: ") and any(change in note for note in run.notes)


def test_a_run_made_longer_keeps_the_rows_that_were_measured_and_no_others(options, execute) -> None:
    def measured(trainer) -> None:
        trainer.iterations_done = 2
        trainer.progress.add({"iteration": 2, "bbox/AP": 1.0})

    execute(prepare_run(options("SOLVER.MAX_ITER", "2")), measured)
    longer = options("SOLVER.MAX_ITER", "4", resume=True, allow_change=("SOLVER.MAX_ITER",))
    with pytest.raises(KeyboardInterrupt):
        execute(prepare_run(longer), interrupted, start_iter=2)
    again = prepare_run(longer)
    assert again.record.history == record_of(again).history == ({"iteration": 2, "bbox/AP": 1.0},)


def test_a_resumed_run_may_move_to_another_device_and_keeps_its_beginning(options, begun, execute, tmp_path) -> None:
    begun("SEED", "11")
    before = read_record(tmp_path / "run" / "record.json")
    run = prepare_run(options("SEED", "11", "DATALOADER.NUM_WORKERS", "3", "TEST.EVAL_PERIOD", "7", resume=True))
    execute(run, trained)
    after = record_of(run)
    assert (after.status, after.hash, after.started) == ("done", before.hash, before.started)
    assert after.environment["first"] == before.environment["first"] and "changes" not in after.details
    assert after.cost.images == before.cost.images + run.config.SOLVER.IMS_PER_BATCH * run.config.SOLVER.MAX_ITER


def test_a_seed_that_was_drawn_is_taken_up_again(options, begun, tmp_path: Path) -> None:
    begun("SEED", "-1")
    drawn = read_record(tmp_path / "run" / "record.json").seeds["run"]
    again = prepare_run(options("SEED", "-1", resume=True))
    assert drawn == again.config.SEED


def test_other_data_are_refused_on_resume(options, begun, tmp_path: Path) -> None:
    begun()
    given = options(resume=True)

    def relabel(content) -> None:
        content["annotations"][0]["bbox"][2] -= 1

    other = edit_json(given.train_data, tmp_path / "other.json", relabel)
    with pytest.raises(ConfigError, match=r"data\.train: "):
        prepare_run(replace(given, train_data=other))
    same = edit_json(given.train_data, tmp_path / "same.json", lambda content: content["images"].reverse())
    prepare_run(replace(given, train_data=same))  # the same content elsewhere, in another order


def test_classes_cannot_change_on_resume(options, begun) -> None:
    begun()
    with pytest.raises(ConfigError, match="class_names: "):
        prepare_run(options(resume=True, allow_change=("class_names",), read=ReadOptions(class_names=BACKWARDS)))


def test_a_wrong_allow_change_says_what_to_pass(options, begun) -> None:
    with pytest.raises(ConfigError, match="it needs --resume"):  # there is no run to go on with
        prepare_run(options(allow_change=("SOLVER.MAX_ITER",)))
    begun()
    with pytest.raises(ConfigError, match=r"did you mean SOLVER.MAX_ITER"):
        prepare_run(options(resume=True, allow_change=("SOLVER.MAXITER",)))


def test_the_same_command_goes_on_with_a_stopped_run_and_finds_a_finished_one_done(options, begun, execute) -> None:
    begun()
    run = prepare_run(options())
    assert run.options.resume and run.finished is None
    execute(run, trained)
    again = prepare_run(options())
    assert again.finished == {"bbox/AP": 12.5, "bbox/AP50": None}
    assert prepare_run(options(resume=True)).finished is None  # said in so many words: it is evaluated once more
    longer = prepare_run(options("SOLVER.MAX_ITER", "500", allow_change=("SOLVER.MAX_ITER",)))
    assert longer.options.resume and longer.finished is None
    with pytest.raises(ConfigError, match=r"began with other values: SOLVER\.BASE_LR"):
        prepare_run(options("SOLVER.BASE_LR", "0.5"))


def test_the_record_of_something_else_is_not_gone_on_with(options, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    OpenRecord(tmp_path / "run" / "record.json", Record("readout", {}, {}, seeds={}))
    with pytest.raises(ConfigError, match="is the record of readout"):
        prepare_run(options(resume=True))


# --- several processes ------------------------------------------------------------------------------------------------


def test_a_worker_reads_no_data_again(options, monkeypatch) -> None:
    reads = Counter()
    monkeypatch.setattr("transfer.data.spec.read_coco", lambda *given: reads.update(["read"]) or read_coco(*given))
    run = prepare_run(options())
    assert reads["read"] == 2  # train and test
    sent = pickle.dumps(run)
    for name in run.registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for _ in range(2):  # as the two workers do, each in a process of its own
        received = pickle.loads(sent)
        enter_process(received)
    assert reads["read"] == 2
    assert DatasetCatalog.get(run.data.train_name) == list(run.data.train.records)
    assert MetadataCatalog.get(run.data.test_name).evaluator_type == "own_coco"
    assert received.config == run.config and received.config.is_frozen() and received.record == run.record


def test_machines_need_one_seed(options) -> None:
    with pytest.raises(ConfigError, match="pass SEED 0"):
        prepare_run(options("SEED", "-1", num_machines=2))
    prepare_run(options("SEED", "4", num_machines=2))


# --- names and the screen ---------------------------------------------------------------------------------------------


def test_registered_names_do_not_pile_up(options) -> None:
    prepare_run(options())
    before = set(DatasetCatalog.list())
    prepare_run(options())
    assert set(DatasetCatalog.list()) == before


def test_import_registers_a_data_set_of_the_users_own(options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_data.py").write_text(
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "DatasetCatalog.register('mine_train', lambda: [])\n"
        "MetadataCatalog.get('mine_train').set(thing_classes=['cat'], evaluator_type='coco')\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("DATASETS.TRAIN", "('mine_train',)", "DATASETS.TEST", "('mine_train',)")
    with pytest.raises(DataError, match="no data set 'mine_train'"):
        prepare_run(options(*words, train=None, test=None))
    run = prepare_run(options(*words, train=None, test=None, modules=("my_own_data",)))
    assert run.config.DATASETS.TRAIN == ("mine_train",)
    DatasetCatalog.remove("mine_train")
    MetadataCatalog.remove("mine_train")


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = prepare_run(options("OUTPUT_DIR", "~/runs/detect"))
    assert Path(run.config.OUTPUT_DIR) == tmp_path / "runs" / "detect"
    with pytest.raises(CheckpointError, match=re.escape(f"no weight file at {tmp_path}/absent.pth")):
        prepare_run(options("MODEL.WEIGHTS", "~/absent.pth"))
