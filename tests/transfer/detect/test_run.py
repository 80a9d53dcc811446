"""Before step one: configuration, data, weights and folder are compared with each other, and nothing is written."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from pretrain.base.errors import CheckpointError, ConfigError, DataError, UserError
from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.write import write_dataset
from transfer.detect.config import CONFIG_ROOT, load_detector_config
from transfer.detect.run import (
    LONG_MESSAGE,
    RunOptions,
    _explained_download,
    _is_short,
    check_output_dir,
    figures_table,
    import_modules,
    init_name,
    prepare_run,
)

SMALL = "demo/R_18_FPN_random.yaml"


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
    """Function: kinds of data, KEY VALUE words -> options of a run into tmp_path/run."""

    def build(
        *words: str, train: str | None = "coco", test: str | None = "coco", run: str = SMALL, **over
    ) -> RunOptions:
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
    run = prepare_run(RunOptions(given.config_file, given.overrides, changed, given.test_data))
    assert run.config.INPUT.MASK_FORMAT == "bitmask" and any("run-length" in note for note in run.notes)


def test_half_masked_training_data_are_refused_and_test_data_measured_by_boxes(options, tmp_path: Path) -> None:
    def strip(content) -> None:
        content["annotations"][0]["segmentation"] = []

    given = options()
    bad_train = edit_json(given.train_data, tmp_path / "train.json", strip)
    with pytest.raises(DataError, match="complete them, or pass MODEL.MASK_ON False"):
        prepare_run(RunOptions(given.config_file, given.overrides, bad_train, given.test_data))
    bad_test = edit_json(given.test_data, tmp_path / "test.json", strip)
    run = prepare_run(RunOptions(given.config_file, given.overrides, given.train_data, bad_test))
    assert run.config.MODEL.MASK_ON and any("mask AP is not measured" in note for note in run.notes)
    assert not MetadataCatalog.get(run.data.test_name).can_evaluate_masks


def test_training_without_test_data_says_that_nothing_is_measured(options) -> None:
    run = prepare_run(options(test=None))
    assert run.config.DATASETS.TEST == () and "no --test-data: AP is not measured" in run.notes


def test_test_data_alone_cannot_train(options) -> None:
    with pytest.raises(ConfigError, match="--test-data is given without --train-data"):
        prepare_run(options(train=None))


@pytest.mark.parametrize("text", ["coco:x", "my/data", "voc:/absent/voc:train"])
def test_wrong_spec_is_refused_before_anything_is_written(options, tmp_path: Path, text: str) -> None:
    given = options()
    with pytest.raises(UserError, match="expected coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT"):
        prepare_run(RunOptions(given.config_file, given.overrides, text, given.test_data))
    assert list(tmp_path.iterdir()) == []


def test_seed_is_drawn_once_and_recorded(options) -> None:
    run = prepare_run(options("SEED", "-1"))
    assert run.config.SEED >= 0 and f"no SEED given: drew SEED {run.config.SEED}" in run.notes


def test_one_process_is_told_that_syncbn_is_bn(options) -> None:
    run = prepare_run(options("MODEL.DEVICE", "cpu", run="coco/R_50_FPN_1x_random.yaml"))
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
        prepare_run(options(train=None, test=None, run="coco/R_50_FPN_1x_random.yaml"))
    with pytest.raises(DataError, match=r"voc_2007_trainval expects .*VOC2007"):
        prepare_run(options(train=None, test=None, run="voc/R_50_C4_24k_random.yaml"))


def test_unknown_built_in_name_is_refused(options) -> None:
    with pytest.raises(DataError, match=r"no data set 'coco_2099' in Detectron2's catalog"):
        prepare_run(options("DATASETS.TRAIN", "('coco_2099',)", train=None, test=None))


# --- evaluation alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder as a finished run leaves it, whose detector numbers the classes backwards."""
    run = tmp_path / "run"
    run.mkdir()
    config = load_detector_config(CONFIG_ROOT / SMALL, ["MODEL.ROI_HEADS.NUM_CLASSES", "8"])
    torch.save({"model": build_model(config).state_dict()}, run / "model_final.pth")
    (run / "last_checkpoint").write_text("model_final.pth")
    (run / "config.yaml").write_text(config.dump())
    (run / "result.json").write_text(json.dumps({"init": "moco", "class_names": list(reversed(CLASS_NAMES))}))
    return run


def test_evaluation_keeps_classes_initialisation_and_files_of_the_run(options, finished: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    run = prepare_run(options(train=None, eval_only=True, resume=True))
    assert run.data.class_names == tuple(reversed(CLASS_NAMES)) and init_name(run) == "moco"
    assert check_output_dir(run.options, run.config) == finished / "evaluation"
    (finished / "evaluation").rmdir()
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_evaluation_by_file_name_needs_a_folder_of_its_own(options, finished: Path, tmp_path: Path) -> None:
    weights = ("MODEL.WEIGHTS", str(finished / "model_final.pth"))
    run = prepare_run(options(*weights, train=None, eval_only=True))
    with pytest.raises(ConfigError, match=r"OUTPUT_DIR .*run is in use"):
        check_output_dir(run.options, run.config)
    other = prepare_run(options(*weights, "OUTPUT_DIR", str(tmp_path / "other"), train=None, eval_only=True))
    assert check_output_dir(other.options, other.config) == tmp_path / "other"


def test_evaluation_needs_data(options, finished: Path) -> None:
    words = ("MODEL.WEIGHTS", str(finished / "model_final.pth"), "DATASETS.TEST", "()")
    with pytest.raises(ConfigError, match="--eval-only needs data"):
        prepare_run(options(*words, train=None, test=None, eval_only=True))


# --- the folder -------------------------------------------------------------------------------------------------------


def test_folder_in_use_is_refused_and_left_alone(options, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run = prepare_run(options())
    with pytest.raises(
        ConfigError, match=r"is in use \(it holds notes\.txt\); pass OUTPUT_DIR and another folder, or --resume"
    ):
        check_output_dir(run.options, run.config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_new_and_empty_folders_are_taken(options, tmp_path: Path) -> None:
    run = prepare_run(options("OUTPUT_DIR", str(tmp_path / "a" / "b")))
    assert check_output_dir(run.options, run.config) == tmp_path / "a" / "b"
    assert list(check_output_dir(run.options, run.config).iterdir()) == []


def test_folder_that_cannot_be_written_is_said(options, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        run = prepare_run(options("OUTPUT_DIR", str(place)))
        with pytest.raises(ConfigError, match=f"OUTPUT_DIR {place} cannot be written"):
            check_output_dir(run.options, run.config)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission_is_said(options, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    run = prepare_run(options())
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"):
        check_output_dir(run.options, run.config)


# --- names and the screen ---------------------------------------------------------------------------------------------


def test_dumps_of_hundreds_of_lines_stay_off_the_screen() -> None:
    def shown(text: str) -> bool:
        return _is_short(logging.LogRecord("d2", logging.INFO, "", 0, text, (), None))

    assert shown("iter: 19 total_loss: 1.0") and shown("\n" * (LONG_MESSAGE - 1))
    assert not shown("\n" * LONG_MESSAGE) and not shown("Environment info:\nPython 3")


def test_registered_names_do_not_pile_up(options) -> None:
    prepare_run(options())
    before = set(DatasetCatalog.list())
    prepare_run(options())
    assert set(DatasetCatalog.list()) == before


def test_figures_are_a_table_of_the_three_figures_people_quote() -> None:
    table = figures_table({"bbox": {"AP": 12.345, "AP50": 30.0, "AP75": None, "APs": 1.0}, "segm": {"AP": 0.5}})
    assert [line.split() for line in table] == [
        ["AP", "AP50", "AP75"],
        ["boxes", "12.35", "30.00", "-"],
        ["masks", "0.50", "-", "-"],
    ]
    assert figures_table({}) == []


def test_copypaste_lines_stay_off_the_screen() -> None:
    def record(text: str) -> logging.LogRecord:
        return logging.LogRecord("detectron2", logging.INFO, "", 0, text, (), None)

    assert not _is_short(record("copypaste: 1,2,3")) and _is_short(record("eta: 0:00:01"))


def test_a_failed_download_says_how_to_do_without_it() -> None:
    explained = pytest.raises(CheckpointError, match=r"cannot download detectron2://x\.pkl.*name resolution.*--trust")
    with explained, _explained_download("detectron2://x.pkl"):
        raise URLError("name resolution")
    with pytest.raises(OSError, match="disk"), _explained_download("weights.pth"):  # a file's error is not a download's
        raise OSError("disk")


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


def test_a_module_that_is_not_there_is_named_and_a_broken_one_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--import no_such_module: no module of that name"):
        import_modules(["no_such_module"])
    (tmp_path / "broken_module_of_mine.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_modules(["broken_module_of_mine"])


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = prepare_run(options("OUTPUT_DIR", "~/runs/detect"))
    assert Path(run.config.OUTPUT_DIR) == tmp_path / "runs" / "detect"
    with pytest.raises(CheckpointError, match=re.escape(f"no weight file at {tmp_path}/absent.pth")):
        prepare_run(options("MODEL.WEIGHTS", "~/absent.pth"))
