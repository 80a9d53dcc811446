"""The configuration doctor: each planted mistake is found under its id, and sound configurations are left in peace."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.config import CfgNode

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.base.record import DataRecord
from transfer.conversion.sidecar import detectron2_settings
from transfer.data.findings import Finding, worst
from transfer.data.records import DetectionData
from transfer.data.spec import PreparedData
from transfer.detect import doctor_case
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT, shipped_runs
from transfer.detect.doctor import CHECKS, diagnose_config, refuse_errors
from transfer.detect.inits import CATALOG, RANDOM, Init, apply_init
from transfer.detect.memory import GIB, MemoryEstimate, estimate_memory

VOC, FPN, DEMO = "voc/R_50_C4_24k.yaml", "coco/R_50_FPN_1x.yaml", "demo/R_18_FPN.yaml"
SELF = {
    arch: Init("mine", f"weights/{arch}.pth", detectron2_settings(arch, InputContract()))
    for arch in ("resnet18", "resnet50")
}
SUPERVISED, FROM_NOTHING = CATALOG["msra_r50"], RANDOM["random"]


@pytest.fixture(scope="module")
def shipped_memory() -> dict[str, MemoryEstimate]:
    """The estimate of each family as it is shipped."""
    return {name: estimate_memory(load_detector_config(CONFIG_ROOT / name)) for name in (VOC, FPN, DEMO)}


@pytest.fixture(autouse=True)
def memory_of_the_family(
    request: pytest.FixtureRequest, shipped_memory: dict[str, MemoryEstimate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mistake changes of the estimate is asked in test_memory.py, and takes 0.1 s for each; the slow tests estimate."""
    if request.node.get_closest_marker("slow"):
        return

    def estimate(config: CfgNode) -> MemoryEstimate:
        pyramid = {50: FPN, 18: DEMO}[config.MODEL.RESNETS.DEPTH]
        return shipped_memory[pyramid if "fpn" in config.MODEL.BACKBONE.NAME else VOC]

    monkeypatch.setattr(doctor_case, "estimate_memory", estimate)


def configuration(family: str, words: Sequence[Any] = (), init: Init | None = None) -> CfgNode:
    """A family with an initialisation applied, then KEY VALUE words in place of what it says."""
    config = load_detector_config(CONFIG_ROOT / family)
    if init is not None:
        apply_init(config, init, frozenset())
    config.merge_from_list(list(words))
    return config


def split(
    count: int = 200,
    *,
    box: tuple[float, float] = (120, 110),
    size: tuple[int, int] = (640, 480),
    objects: int = 2,
    masks: Any = "none",
    empty: int = 0,
    names: tuple[str, ...] = ("cup",),
    **more: Any,
) -> DetectionData:
    """`count` images with `objects` boxes each, the widths spread by a third, and `empty` images without."""
    numbers = random.Random(0)
    things = [
        [{"bbox": [0, 0, box[0] * numbers.uniform(0.8, 1.2), box[1] * numbers.uniform(0.8, 1.2)], "category_id": 0}]
        * objects
        for _ in range(count)
    ]
    images = [*things, *([[]] * empty)]
    records = tuple(
        {"file_name": f"{i}.jpg", "image_id": i, "width": size[0], "height": size[1], "annotations": found}
        for i, found in enumerate(images)
    )
    return DetectionData(records, names, masks=masks, **more)


def own(train: DetectionData | None = None, test: DetectionData | None = None, *, same: bool = False) -> PreparedData:
    """Prepared data of two splits. same: with one content."""
    train, test = train or split(), test or split(60)
    prints = {"train": DataRecord("coco:a", "one", 1), "test": DataRecord("coco:b", "one" if same else "two", 1)}
    return PreparedData(train.class_names, "own_train", "own_test", train, test, prints, "COCO AP")


def without_test(data: PreparedData) -> PreparedData:
    return PreparedData(data.class_names, "own_train", None, data.train, None, {}, None)


def ids(findings: Sequence[Finding]) -> set[str]:
    return {finding.id.removeprefix("config/") for finding in findings}


# For the demo family and own data: one class, a schedule by the rule, nothing to find.
SOUND = (
    *("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.MASK_ON", False, "SOLVER.MAX_ITER", 5000, "SOLVER.STEPS", (3750, 4583)),
    *("SOLVER.CHECKPOINT_PERIOD", 500, "TEST.EVAL_PERIOD", 2500, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.005),
    *("TEST.PRECISE_BN.ENABLED", True, "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [48], [64]]),
)
# id of the finding, severity, family, initialisation, KEY VALUE words that plant the mistake, further arguments
PLANTED: list[tuple[str, str, str, Init, Sequence[Any], dict[str, Any]]] = [
    ("frozen-stages", "error", FPN, FROM_NOTHING, ("MODEL.BACKBONE.FREEZE_AT", 2), {}),
    ("frozen-stages", "warning", FPN, SELF["resnet50"], ("MODEL.BACKBONE.FREEZE_AT", 2), {}),
    ("frozen-batchnorm", "error", FPN, FROM_NOTHING, ("MODEL.RESNETS.NORM", "FrozenBN"), {}),
    ("frozen-batchnorm", "warning", FPN, SELF["resnet50"], ("MODEL.RESNETS.NORM", "FrozenBN"), {}),
    ("extra-norm", "warning", VOC, SELF["resnet50"], ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"), {}),
    (
        "syncbn-one-process",
        "warning",
        FPN,
        SELF["resnet50"],
        ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.0025),
        {"num_processes": 1},
    ),
    ("syncbn-one-process", "note", FPN, SELF["resnet50"], (), {"num_processes": 1}),
    ("batchnorm-few-images", "warning", FPN, SELF["resnet50"], ("MODEL.RESNETS.NORM", "BN"), {}),
    ("precise-bn-off", "warning", FPN, SELF["resnet50"], ("TEST.PRECISE_BN.ENABLED", False), {}),
    (
        "precise-bn-long",
        "note",
        FPN,
        SELF["resnet50"],
        ("SOLVER.MAX_ITER", 100, "SOLVER.STEPS", (75,), "SOLVER.WARMUP_ITERS", 10),
        {},
    ),
    ("input-contract", "error", FPN, SELF["resnet50"], ("INPUT.FORMAT", "BGR"), {}),
    ("input-contract", "error", FPN, SELF["resnet50"], ("MODEL.RESNETS.STRIDE_IN_1X1", True), {}),
    ("input-contract", "error", FPN, SUPERVISED, ("MODEL.PIXEL_STD", [58.395, 57.12, 57.375]), {}),
    ("pixel-units", "error", FPN, FROM_NOTHING, ("MODEL.PIXEL_MEAN", [0.485, 0.456, 0.406]), {}),
    ("pixel-units", "error", FPN, FROM_NOTHING, ("MODEL.PIXEL_STD", [0.229, 0.224, 0.225]), {}),
    ("pixel-order", "warning", FPN, FROM_NOTHING, ("INPUT.FORMAT", "BGR"), {}),
    ("learning-rate", "warning", FPN, SELF["resnet50"], ("SOLVER.IMS_PER_BATCH", 8), {"num_processes": 2}),
    ("learning-rate", "error", FPN, SELF["resnet50"], ("SOLVER.BASE_LR", 0.0), {}),
    ("learning-rate", "note", FPN, SELF["resnet50"], ("SOLVER.BASE_LR", 0.002), {}),
    ("warmup", "warning", VOC, SELF["resnet50"], ("SOLVER.WARMUP_ITERS", 0), {}),
    ("warmup", "warning", VOC, SELF["resnet50"], ("SOLVER.WARMUP_ITERS", 20000), {}),
    ("warmup", "warning", VOC, SELF["resnet50"], ("SOLVER.WARMUP_ITERS", 24000), {}),
    ("steps-beyond-end", "warning", VOC, SELF["resnet50"], ("SOLVER.MAX_ITER", 20000), {}),
    ("rate-never-falls", "warning", VOC, SELF["resnet50"], ("SOLVER.STEPS", ()), {}),
    (
        "clip-gradients",
        "warning",
        FPN,
        SELF["resnet50"],
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-4),
        {},
    ),
    ("batch-divisible", "error", FPN, SELF["resnet50"], (), {"num_processes": 3}),
    ("batch-for-eight-gpus", "warning", FPN, SELF["resnet50"], (), {"num_processes": 1}),
    ("batch-for-eight-gpus", "warning", VOC, SELF["resnet50"], (), {"num_processes": 2, "memory": 24 * GIB}),
    ("memory", "warning", FPN, SELF["resnet50"], (), {"memory": 6 * GIB}),
    ("amp", "error", DEMO, FROM_NOTHING, ("SOLVER.AMP.ENABLED", True), {"num_processes": 1}),
    ("checkpoint-period", "warning", VOC, SELF["resnet50"], ("SOLVER.CHECKPOINT_PERIOD", 30000), {}),
    ("classes", "error", VOC, SELF["resnet50"], ("MODEL.ROI_HEADS.NUM_CLASSES", 10), {}),
    ("classes", "warning", VOC, SELF["resnet50"], ("MODEL.ROI_HEADS.NUM_CLASSES", 80), {}),
    ("no-test-data", "warning", VOC, SELF["resnet50"], ("DATASETS.TEST", ()), {}),
    ("train-is-test", "warning", VOC, SELF["resnet50"], ("DATASETS.TEST", ("voc_2007_trainval",)), {}),
    ("resolution-mismatch", "warning", FPN, SELF["resnet50"], ("INPUT.MIN_SIZE_TRAIN", (320,)), {}),
    ("max-size", "warning", FPN, SELF["resnet50"], ("INPUT.MAX_SIZE_TEST", 600), {}),
    ("score-threshold", "warning", FPN, SELF["resnet50"], ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5), {}),
    ("anchor-levels", "error", FPN, SELF["resnet50"], ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128]]), {}),
    ("ignored-key", "warning", FPN, SELF["resnet50"], ("TEST.AUG.ENABLED", True), {}),
]
# The same on own data, over SOUND: words and data.
PLANTED_IN_DATA: list[tuple[str, str, Sequence[Any], PreparedData]] = [
    ("anchors", "warning", (), own(split(box=(500, 420)))),
    ("small-boxes", "warning", (), own(split(box=(22, 18)))),
    (
        "enlarged-images",
        "note",
        ("INPUT.MIN_SIZE_TEST", 192),
        own(split(box=(12, 11), size=(64, 64)), split(60, size=(64, 64))),
    ),
    (
        "epochs",
        "warning",
        ("SOLVER.MAX_ITER", 200, "SOLVER.STEPS", (150,), "SOLVER.WARMUP_ITERS", 20, "TEST.EVAL_PERIOD", 0),
        own(),
    ),
    (
        "epochs",
        "warning",
        ("SOLVER.MAX_ITER", 90000, "SOLVER.STEPS", (60000, 80000), "SOLVER.CHECKPOINT_PERIOD", 5000),
        own(),
    ),
    ("classes", "error", ("MODEL.ROI_HEADS.NUM_CLASSES", 80), own()),
    ("masks-missing", "error", ("MODEL.MASK_ON", True), own()),
    ("masks-missing", "error", ("MODEL.MASK_ON", True), own(split(masks="some"))),
    ("mask-format", "error", ("MODEL.MASK_ON", True), own(split(masks="all", bitmask=True))),
    ("masks-unused", "note", (), own(split(masks="all"))),
    ("no-test-data", "warning", (), without_test(own())),
    ("no-test-data", "error", (), own(test=split(0, empty=60))),
    ("train-is-test", "warning", (), own(same=True)),
    ("few-test-images", "note", (), own(test=split(8))),
    ("evaluation-cost", "warning", ("TEST.EVAL_PERIOD", 50), own()),
    ("empty-images", "note", (), own(split(empty=300))),
    ("detections-per-image", "warning", (), own(test=split(60, objects=150))),
    ("flipped-classes", "warning", ("MODEL.ROI_HEADS.NUM_CLASSES", 2), own(split(names=("left_hand", "right_hand")))),
]


def found_in(family: str, init: Init, words: Sequence[Any], **more: Any) -> list[Finding]:
    arguments = {"num_processes": 8, "memory": 80 * GIB, **more}
    return diagnose_config(configuration(family, words, init), init=init, **arguments)


@pytest.mark.parametrize(("what", "severity", "family", "init", "words", "more"), PLANTED)
def test_a_planted_mistake_is_found_with_the_line_to_change(
    what: str, severity: str, family: str, init: Init, words: Sequence[Any], more: dict[str, Any]
) -> None:
    found = [finding for finding in found_in(family, init, words, **more) if finding.id == f"config/{what}"]
    assert [finding.severity for finding in found] == [severity]
    assert found[0].where and found[0].message and (found[0].change or severity == "note")


@pytest.mark.parametrize(("what", "severity", "words", "data"), PLANTED_IN_DATA)
def test_a_planted_mistake_against_the_data_is_found(
    what: str, severity: str, words: Sequence[Any], data: PreparedData
) -> None:
    config = configuration(DEMO, (*SOUND, *words), FROM_NOTHING)
    found = diagnose_config(config, data=data, init=FROM_NOTHING)
    assert [finding.severity for finding in found if finding.id == f"config/{what}"] == [severity]


def test_the_sound_configuration_that_they_are_planted_in_has_no_finding() -> None:
    assert diagnose_config(configuration(DEMO, SOUND, FROM_NOTHING), data=own(), init=FROM_NOTHING) == []


@pytest.mark.parametrize("family", [VOC, FPN])
def test_a_published_recipe_on_eight_processes_has_no_finding(family: str) -> None:
    for init in (FROM_NOTHING, SELF["resnet50"], SUPERVISED):
        assert found_in(family, init, ()) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped_runs(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_shipped_family_is_warned_of(path: Path) -> None:
    config = load_detector_config(path)
    processes = 8 if config.SOLVER.IMS_PER_BATCH >= 8 else 1  # the hardware of its header
    unlabelled = Init("mine", "weights/mine.pth", {}, "trusted")
    findings = diagnose_config(config, init=unlabelled, num_processes=processes, memory=80 * GIB)
    assert worst(findings) in (None, "note"), findings


def test_more_than_twenty_checks_each_with_a_planted_mistake() -> None:
    planted = {entry[0] for entry in (*PLANTED, *PLANTED_IN_DATA)}
    assert len(planted) >= 35 and len(CHECKS) >= 20


def test_supervised_weights_may_be_frozen_as_detectron2_freezes_them() -> None:
    words = ("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.RESNETS.NORM", "FrozenBN")
    assert not ids(found_in(FPN, SUPERVISED, words)) & {"frozen-stages", "frozen-batchnorm"}


def test_the_batch_for_eight_gpus_is_no_mistake_on_one_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    held = found_in(FPN, SELF["resnet50"], (), num_processes=1, memory=80 * GIB)
    assert not ids(held) & {"batch-for-eight-gpus", "memory"}
    small = found_in(FPN, SELF["resnet50"], (), num_processes=1, memory=24 * GIB)
    (finding,) = [finding for finding in small if finding.id == "config/batch-for-eight-gpus"]
    assert "SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.005 SOLVER.MAX_ITER 360000" in finding.change


def test_the_demo_anchors_on_large_objects_are_named_with_their_share_and_the_sizes_to_pass() -> None:
    """A user's study went by its anchors: at most 96 px, and 57 % of the boxes were larger."""
    data = own(split(box=(560, 420)))  # at 192 px: 224 x 168
    config = configuration(DEMO, (*SOUND, "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [96]]), FROM_NOTHING)
    (finding,) = [f for f in diagnose_config(config, data=data, init=FROM_NOTHING) if f.id == "config/anchors"]
    assert "100% of 400 boxes are larger than the largest anchor (96 px)" in finding.message
    key, _, value = finding.change.removesuffix(", or --scale auto").partition(" ")
    config.merge_from_list([key, value.strip('"')])
    assert "anchors" not in ids(diagnose_config(config, data=data, init=FROM_NOTHING))


def test_the_disk_needs_room_for_the_checkpoints_that_are_kept_however_often_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    often = ("SOLVER.CHECKPOINT_PERIOD", 100)
    free = {"bytes": 2 * GIB}  # a C4 detector's parameters and momentum are 0.25 GiB: 3.5 times that
    monkeypatch.setattr(
        "transfer.detect.doctor_machine.shutil.disk_usage", lambda _: SimpleNamespace(free=free["bytes"])
    )
    assert found_in(VOC, SELF["resnet50"], often) == []
    free["bytes"] = GIB // 2
    (finding,) = found_in(VOC, SELF["resnet50"], often)
    assert finding.id == "config/checkpoints-disk" and finding.message.endswith("0.5 GiB are free")


def test_errors_become_one_refusal_that_lists_them_all() -> None:
    words = ("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.RESNETS.NORM", "FrozenBN")
    with pytest.raises(ConfigError, match=r"(?s)FREEZE_AT 0.*MODEL.RESNETS.NORM SyncBN"):
        refuse_errors(found_in(FPN, FROM_NOTHING, words))
    refuse_errors(found_in(FPN, SELF["resnet50"], words))  # warnings alone


@pytest.mark.slow
def test_no_values_make_the_doctor_raise() -> None:
    """Values that Detectron2 takes when it reads them, however little sense they make."""
    odd: dict[str, list[Any]] = {
        "INPUT.MIN_SIZE_TRAIN": [(), (0,), (1,), (10**6,)],
        "INPUT.MIN_SIZE_TEST": [0, -1, 10**6],
        "INPUT.MAX_SIZE_TEST": [0, -5],
        "INPUT.MAX_SIZE_TRAIN": [0, -5],
        "SOLVER.IMS_PER_BATCH": [0, -3, 7],
        "SOLVER.MAX_ITER": [0, -1, 1],
        "SOLVER.STEPS": [(), (5, 3), (-1,)],
        "SOLVER.BASE_LR": [0.0, -1.0, float("nan")],
        "SOLVER.WARMUP_ITERS": [-5, 10**9],
        "SOLVER.CHECKPOINT_PERIOD": [0, -1],
        "TEST.EVAL_PERIOD": [-1, 10**9],
        "MODEL.PIXEL_MEAN": [[], [0.0], [1.0] * 4],
        "MODEL.PIXEL_STD": [[], [0.0, 0.0, 0.0]],
        "MODEL.ANCHOR_GENERATOR.SIZES": [[], [[]], [[], [], []], [[0], [0], [0]], [32, 64, 96], [[-3], [1], [2]]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[], [[]], [[0.0]], [[-1.0]]],
        "MODEL.RPN.IN_FEATURES": [[], ["res4"], ["x"]],
        "MODEL.RPN.IOU_THRESHOLDS": [[], [0.3]],
        "MODEL.BACKBONE.FREEZE_AT": [-1, 9],
        "MODEL.ROI_HEADS.IN_FEATURES": [[], ["p9"]],
        "MODEL.RESNETS.NORM": ["", "XN"],
        "MODEL.WEIGHTS": ["nowhere.pth", "https://example.org/x", "~"],
    }
    numbers = random.Random(1)
    for key, values in odd.items():
        for value in values:
            config = configuration(DEMO, SOUND)
            config.merge_from_list([key, value])
            diagnose_config(
                config, data=numbers.choice([own(), without_test(own())]), num_processes=numbers.choice([1, 3])
            )
