"""The trainer: pixels by the shared reader, evaluators by kind of data, failures in one line."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pretrain.base.errors import CheckpointError, ConfigError, DataError, UserError
from pretrain.base.image_files import read_image
from transfer.data.spec import PreparedData, parse_spec, prepare_data
from transfer.detect.builtin_voc import BuiltinVocEvaluator
from transfer.detect.checkpointer import class_names_in
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.evaluation import VocEvaluator
from transfer.detect.progress import Saving
from transfer.detect.trainer import ClassNames, DetectionTrainer, SharedReaderMapper, _one_line_data_errors


def load(*words: str):
    """The demo's detector, for masks as run lengths."""
    base = CONFIG_ROOT / "demo" / "R_18_FPN.yaml"
    return load_detector_config(base, ("INPUT.MASK_FORMAT", "bitmask", *words))


@pytest.fixture
def data(damageable_scenes: Path) -> PreparedData:
    coco = damageable_scenes / "coco"
    return prepare_data(
        parse_spec(f"coco:{coco}/annotations/instances_train.json:{coco}/train"),
        parse_spec(f"coco:{coco}/annotations/instances_test.json:{coco}/test"),
    )


@pytest.mark.parametrize(
    ("channels", "is_train", "masks"), [("RGB", True, "bitmask"), ("BGR", True, "polygon"), ("BGR", False, "bitmask")]
)
def test_on_plain_photographs_the_example_equals_detectron2s(data, channels: str, is_train: bool, masks: str) -> None:
    config = load("INPUT.FORMAT", channels, "INPUT.MASK_FORMAT", masks)
    record = copy.deepcopy(data.train.records[0])
    if masks == "polygon":
        for thing in record["annotations"]:
            x1, y1, x2, y2 = thing["bbox"]
            thing["segmentation"] = [[x1, y1, x2, y1, x2, y2]]
    np.random.seed(3)  # Detectron2's augmentations draw from here
    ours = SharedReaderMapper(config, is_train=is_train)(record)  # raises on Detectron2's warning of read-only masks
    np.random.seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = DatasetMapper(config, is_train=is_train)(record)
    assert torch.equal(ours["image"], theirs["image"]) and ours["image"].dtype == torch.uint8
    assert set(ours) == set(theirs) and ("instances" in ours) == is_train
    if is_train:
        here, there = ours["instances"], theirs["instances"]
        assert torch.equal(here.gt_boxes.tensor, there.gt_boxes.tensor)
        assert torch.equal(here.gt_classes, there.gt_classes)
        assert torch.equal(*(one.gt_masks.crop_and_resize(one.gt_boxes.tensor, 28) for one in (here, there)))


def test_channels_are_in_the_configured_order(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "width": 20, "height": 10}
    for channels, expected in (("RGB", [200, 100, 50]), ("BGR", [50, 100, 200])):
        image = SharedReaderMapper(load("INPUT.FORMAT", channels), is_train=False)(record)["image"]
        assert image[:, 5, 5].tolist() == expected


def test_sixteen_bit_and_transparent_images_are_read_as_in_pretraining(tmp_path: Path) -> None:
    """Detectron2's own reader saturates the one and lays the other bare."""
    mapper = SharedReaderMapper(load(), is_train=False)
    deep, clear = tmp_path / "deep.png", tmp_path / "clear.png"
    Image.fromarray(np.full((10, 20), 257 * 90, np.uint16)).save(deep)
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(clear)
    for path, value in ((deep, 90), (clear, 255)):
        image = mapper({"file_name": str(path), "width": 20, "height": 10})["image"]
        assert image.unique().tolist() == [value]


@pytest.mark.realdata
def test_photographs_of_coco_and_blood_cells_have_the_pixels_that_detectron2_reads(shared_data: Path) -> None:
    from detectron2.data.detection_utils import read_image as their_reader

    paths = [
        *sorted((shared_data / "coco" / "val2017").iterdir())[:40],
        *(shared_data / "bccd" / "JPEGImages").glob("*1.jpg"),
    ]
    mapper = SharedReaderMapper(
        load("INPUT.FORMAT", "BGR", "INPUT.MIN_SIZE_TEST", "0"), is_train=False
    )  # 0: no resizing
    for path in paths:
        theirs = their_reader(str(path), format="BGR")
        record = {"file_name": str(path), "height": theirs.shape[0], "width": theirs.shape[1]}
        assert np.array_equal(mapper(record)["image"].permute(1, 2, 0).numpy(), theirs), path


def test_a_truncated_jpeg_has_the_pixels_of_pretraining(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(512, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    mapper = SharedReaderMapper(load("INPUT.FORMAT", "RGB", "INPUT.MIN_SIZE_TEST", "0"), is_train=False)
    image = mapper({"file_name": str(path), "height": 512, "width": 64})["image"]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), read_image(path))


@pytest.mark.slow  # decodes 50 megapixels
def test_an_image_may_have_as_many_pixels_as_its_checked_annotation_says(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10_001, 5000)).save(path)
    mapper = SharedReaderMapper(load(), is_train=False)
    assert mapper({"file_name": str(path), "height": 5000, "width": 10_001})["image"].shape[0] == 3
    with pytest.raises(DataError, match="at most 50 Mpx"):  # the control: the annotation says less
        mapper({"file_name": str(path), "height": 500, "width": 1000})


def test_record_is_left_as_it_was(data: PreparedData) -> None:
    record = data.train.records[0]
    before = [dict(thing) for thing in record["annotations"]]
    SharedReaderMapper(load(), is_train=True)(record)
    assert record["annotations"] == before


def test_unreadable_image_and_wrong_size_are_named(data: PreparedData) -> None:
    record = dict(data.train.records[0])
    path = Path(record["file_name"])
    with pytest.raises(DataError, match=f"{path} is 192 x 192 when upright, its annotation says 5 x 192"):
        SharedReaderMapper(load(), is_train=True)({**record, "width": 5})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=f"{path}: damaged or truncated"):
        SharedReaderMapper(load(), is_train=True)(record)


def test_model_on_the_cpu_is_channels_last() -> None:
    model = DetectionTrainer.build_model(load())
    assert model.backbone.bottom_up.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def catalog():
    """Function that registers an empty data set with metadata; forgotten afterwards."""
    names = []

    def register(**metadata) -> str:
        name = f"set_{len(names)}_of_the_trainer_tests"
        names.append(name)
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(thing_classes=["ant"], **metadata)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_evaluator_follows_the_kind_of_data(catalog, tmp_path: Path) -> None:
    config = load("OUTPUT_DIR", str(tmp_path))
    assert (
        type(
            DetectionTrainer.build_evaluator(
                config, catalog(evaluator_type="own_voc", metric="VOC AP, area under the curve")
            )
        )
        is VocEvaluator
    )
    stock = catalog(evaluator_type="pascal_voc", year=2007, dirname=str(tmp_path), split="test")
    (tmp_path / "Annotations").mkdir()
    assert type(DetectionTrainer.build_evaluator(config, stock)) is BuiltinVocEvaluator
    with pytest.raises(ConfigError, match="no evaluator for data of kind 'lvis'; expected COCO or VOC"):
        DetectionTrainer.build_evaluator(config, catalog(evaluator_type="lvis"))


@pytest.mark.parametrize(
    ("mask_on", "all_masks", "tasks"),
    [("True", True, ("bbox", "segm")), ("True", False, ("bbox",)), ("False", True, ("bbox",))],
)
def test_masks_are_evaluated_only_where_detector_and_data_have_them(data, mask_on, all_masks, tasks, tmp_path) -> None:
    metadata = MetadataCatalog.get(data.test_name)
    del metadata.can_evaluate_masks  # it can be set once only
    metadata.can_evaluate_masks = all_masks
    config = load("MODEL.MASK_ON", mask_on, "OUTPUT_DIR", str(tmp_path))
    evaluator = DetectionTrainer.build_evaluator(config, data.test_name)
    assert isinstance(evaluator, COCOEvaluator) and evaluator._tasks == tasks


def test_the_metric_is_said_in_words(catalog) -> None:
    for kind, metadata, words in [
        ("coco", {}, "COCO AP, IoU .50:.95"),
        ("own_coco", {}, "COCO AP, IoU .50:.95"),
        ("pascal_voc", {"year": 2007}, "VOC AP, 11 points (2007)"),
        ("pascal_voc", {"year": 2012}, "VOC AP, area under the curve"),
        ("own_voc", {"year": 2012, "metric": "as the data say"}, "as the data say"),
    ]:
        assert DetectionTrainer.metric(catalog(evaluator_type=kind, **metadata)) == words
    with pytest.raises(ConfigError, match="no evaluator for data of kind 'lvis'"):  # before training, not after it
        DetectionTrainer.metric(catalog(evaluator_type="lvis"))


# --- keypoints --------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path):
    """A built-in data set of keypoints: one image, one person."""
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    points = [value for i in range(17) for value in (10 + 4 * i, 20 + 2 * i, 2)]
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 10, 80, 60], "area": 4800, "iscrowd": 0}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [person | {"keypoints": points, "num_keypoints": 17}],
    }
    (tmp_path / "people.json").write_text(json.dumps(content))
    name = "people_of_the_trainer_tests"
    names = [f"point{i}" for i in range(17)]
    meta = {"keypoint_names": names, "keypoint_flip_map": []}
    register_coco_instances(name, meta, str(tmp_path / "people.json"), str(tmp_path))
    yield name, torch.tensor(points).reshape(1, 17, 3).float()
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


class SeesThePerson(nn.Module):
    """Finds the box of `people` and the points that it is given."""

    def __init__(self, points: torch.Tensor) -> None:
        super().__init__()
        self.points = points

    def forward(self, examples):
        (example,) = examples
        found = Instances((example["height"], example["width"]))
        found.pred_boxes, found.scores = Boxes(torch.tensor([[5.0, 10, 85, 70]])), torch.ones(1)
        found.pred_classes, found.pred_keypoints = torch.zeros(1, dtype=torch.long), self.points
        return [{"instances": found}]


@pytest.mark.parametrize(("error", "expected"), [(0.0, 100.0), (40.0, 0.0)])
def test_keypoints_of_built_in_data_are_evaluated(people, tmp_path: Path, error: float, expected: float) -> None:
    name, points = people
    words = ("MODEL.KEYPOINT_ON", "True", "MODEL.MASK_ON", "False", "DATALOADER.NUM_WORKERS", "0")
    config = load(
        *words, "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(tmp_path)
    )
    results = DetectionTrainer.test(config, SeesThePerson(points + torch.tensor([error, error, 0])))
    assert results["keypoints"]["AP"] == pytest.approx(expected) and results["bbox"]["AP"] == pytest.approx(100)


class Blind(nn.Module):
    """Finds nothing."""

    def forward(self, examples):
        nothing = {"pred_boxes": Boxes(torch.zeros(0, 4)), "scores": torch.zeros(0), "pred_classes": torch.zeros(0)}
        return [{"instances": Instances((entry["height"], entry["width"]), **nothing)} for entry in examples]


def test_a_detector_that_finds_nothing_has_ap_zero(data, tmp_path: Path) -> None:
    """Detectron2 says NaN, which a report would have to leave out."""
    config = load("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path))
    config.DATASETS.TEST = (data.test_name,)
    results = DetectionTrainer.test(config, Blind())
    assert set(results) == {"bbox", "segm"}
    assert all(results[task][name] == 0 for task in results for name in ("AP", "AP50", "AP75"))


def test_ground_truth_is_written_where_the_users_file_cannot_be_used(data, tmp_path: Path) -> None:
    metadata = MetadataCatalog.get(data.test_name)
    theirs = metadata.json_file
    DetectionTrainer.build_evaluator(load("OUTPUT_DIR", str(tmp_path)), data.test_name)
    assert metadata.json_file == theirs and not (tmp_path / "inference" / "ground_truth.json").exists()
    del metadata.json_file, metadata.thing_dataset_id_to_contiguous_id
    evaluator = DetectionTrainer.build_evaluator(load("OUTPUT_DIR", str(tmp_path)), data.test_name)
    assert metadata.json_file == f"{tmp_path}/inference/ground_truth.json"
    assert len(evaluator._coco_api.anns) == data.test.num_objects


@pytest.fixture
def trainer(data, monkeypatch, tmp_path: Path) -> DetectionTrainer:
    """Of six iterations, a checkpoint every other one, nothing to evaluate."""
    for kind in (DetectionTrainer, DefaultTrainer):
        monkeypatch.setattr(kind, "build_writers", lambda self: [])  # they would keep files open
    words = ("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "6")
    config = load(*words, "SOLVER.CHECKPOINT_PERIOD", "2", "MODEL.ROI_HEADS.NUM_CLASSES", str(len(data.class_names)))
    config.DATASETS.TRAIN, config.DATASETS.TEST = (data.train_name,), ()
    return DetectionTrainer(config)


def test_every_checkpoint_holds_the_class_names_and_detectron2_reads_it(data, trainer, tmp_path: Path) -> None:
    trainer.checkpointer.save("model_0000001")
    assert class_names_in(tmp_path / "model_0000001.pth") == data.class_names
    other = DetectionTrainer.build_model(trainer.cfg)
    rest = DetectionCheckpointer(other).load(str(tmp_path / "model_0000001.pth"))
    assert rest["class_names"] == list(data.class_names)  # Detectron2 hands on what it does not know
    ours, theirs = trainer.model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    DefaultTrainer(trainer.cfg).resume_or_load(resume=True)  # its own tool goes on from ours


def test_checkpoints_on_the_way_count_iterations_and_the_newest_two_stay(trainer, tmp_path: Path) -> None:
    counts = []
    trainer.on_progress = counts.append
    (saving,) = (hook for hook in trainer._hooks if isinstance(hook, Saving))
    for trainer.iter in range(6):  # from 0, as Detectron2 counts
        saving.after_step()
    assert counts == [2, 4, 6]
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000003.pth", "model_final.pth"}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_what_is_not_finite_is_not_saved_and_what_was_there_stays(trainer, tmp_path: Path) -> None:
    trainer.save(2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.cls_score.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"not finite \(model\.roi_heads\.box_predictor\.cls_score\.bias"):
        trainer.save(4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_training_does_not_go_on_from_a_checkpoint_of_other_classes() -> None:
    ClassNames(["cat", "dog"]).load_state_dict(["cat", "dog"])
    with pytest.raises(CheckpointError, match="the checkpoint's classes are dog, cat; those of the data are cat, dog"):
        ClassNames(["cat", "dog"]).load_state_dict(["dog", "cat"])


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("a.jpg: the file is empty")


def test_error_of_a_loader_process_loses_that_process_traceback() -> None:
    iterator = iter(DataLoader(Broken(), num_workers=1))
    with pytest.raises(DataError) as raw:
        next(iterator)
    iterator._shutdown_workers()  # left to the garbage collector, it waits five seconds
    assert "Traceback" in str(raw.value)  # what a user would see
    with pytest.raises(DataError) as caught, _one_line_data_errors():
        raise raw.value
    assert str(caught.value) == "a.jpg: the file is empty"
    with pytest.raises(DataError, match="^plain$"), _one_line_data_errors():
        raise DataError("plain")


def test_image_that_breaks_during_evaluation_is_named(data, tmp_path: Path) -> None:
    path = Path(data.test.records[1]["file_name"])
    path.write_bytes(path.read_bytes()[:500])
    config = load("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path))
    config.DATASETS.TEST = (data.test_name,)

    with pytest.raises(DataError, match=f"^{path}: damaged or truncated"):
        DetectionTrainer.test(config, Blind(), evaluators=[COCOEvaluator(data.test_name, tasks=("bbox",))])


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["image", "loss"])
def test_training_that_cannot_go_on_says_why_once(data, trouble: str, tmp_path: Path, caplog) -> None:
    config = load("DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path), "SOLVER.IMS_PER_BATCH", "2")
    config.DATASETS.TRAIN, config.DATASETS.TEST = (data.train_name,), ()
    trainer = DetectionTrainer(config)
    if trouble == "image":
        for record in data.train.records:
            Path(record["file_name"]).write_bytes(b"")
        error, message = DataError, r"^\S+\.jpg: the file is empty"
    else:
        with torch.no_grad():
            trainer.model.roi_heads.box_predictor.cls_score.weight.fill_(float("nan"))
        error, message = UserError, rf"(?s)training diverged: .*Lower SOLVER.BASE_LR \(now {config.SOLVER.BASE_LR}\)"
    with caplog.at_level(logging.ERROR), pytest.raises(error, match=message) as caught:
        trainer.train()
    assert "Traceback" not in str(caught.value) and not any(record.exc_info for record in caplog.records)
