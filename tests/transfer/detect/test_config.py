"""Configurations: the shipped figures against Detectron2's own files, safe reading, helpful errors, every model built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.engine import DefaultTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from pretrain.base.errors import ConfigError
from transfer.detect.config import (
    CONFIG_ROOT,
    check_supported,
    load_detector_config,
    resolve_config,
    resolve_config_path,
    shipped_runs,
)

RUNS = [path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()]
FPN, C4, VOC = (
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml",
)
# What the paper's runs change in Detectron2's own files: docs/specification.md 2.2 to 2.4. Nothing else may differ.
NORMED = {"MODEL.BACKBONE.FREEZE_AT": 0, "MODEL.RESNETS.NORM": "SyncBN", "TEST.PRECISE_BN.ENABLED": True}
MOCO_FPN = NORMED | {"MODEL.FPN.NORM": "SyncBN"}
AUTHORS_FPN = MOCO_FPN | {
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
}
EXTRA_NORM = NORMED | {"MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"}
VOC_24K = {"SOLVER.MAX_ITER": 24000, "SOLVER.STEPS": (18000, 22000)}
TWICE = {"SOLVER.MAX_ITER": 180000, "SOLVER.STEPS": (120000, 160000)}
INIT = {
    "random": {"MODEL.WEIGHTS": ""},
    "supervised": {},
    "infomin": {
        "MODEL.WEIGHTS": "weights/infomin_resnet50.pth",
        "MODEL.PIXEL_MEAN": [123.675, 116.280, 103.530],
        "MODEL.PIXEL_STD": [58.395, 57.120, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "INPUT.FORMAT": "RGB",
    },
}
FAMILIES = {
    "voc/R_50_C4_24k": (VOC, EXTRA_NORM | VOC_24K),
    "coco/R_50_C4_1x": (C4, EXTRA_NORM),
    "coco/R_50_C4_2x": (C4, EXTRA_NORM | TWICE),
    "coco/R_50_FPN_1x": (FPN, AUTHORS_FPN),
    "coco/R_50_FPN_2x": (FPN, AUTHORS_FPN | TWICE),
    "coco/R_50_FPN_moco_1x": (FPN, MOCO_FPN),
}


def flat(values: Mapping, prefix: str = "") -> dict:
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def build_without_memory(config) -> torch.nn.Module:
    config.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(config)


# --- the shipped files ------------------------------------------------------------------------------------------------


def test_every_run_of_the_paper_ships() -> None:
    assert set(RUNS) - {"demo/R_18_FPN.yaml", "demo/R_18_FPN.yaml"} == {
        f"{family}_{init}.yaml" for family in FAMILIES for init in INIT
    }


@pytest.mark.parametrize("init", INIT)
@pytest.mark.parametrize("family", FAMILIES)
def test_run_departs_from_detectron2s_own_file_in_the_published_figures_only(family: str, init: str) -> None:
    theirs_name, changes = FAMILIES[family]
    ours, theirs = (
        flat(load_detector_config(CONFIG_ROOT / f"{family}_{init}.yaml")),
        flat(model_zoo.get_config(theirs_name)),
    )
    departures = {key: ours[key] for key in ours if ours[key] != theirs[key]}
    assert set(ours) == set(theirs) and departures == changes | INIT[init]


def test_schedules_and_sizes_are_the_published_ones() -> None:
    voc = load_detector_config(CONFIG_ROOT / "voc/R_50_C4_24k.yaml")
    assert tuple(range(480, 801, 32)) == voc.INPUT.MIN_SIZE_TRAIN and voc.INPUT.MIN_SIZE_TEST == 800
    assert (voc.SOLVER.BASE_LR, voc.SOLVER.IMS_PER_BATCH, voc.SOLVER.WARMUP_ITERS) == (0.02, 16, 100)
    assert voc.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval") and not voc.MODEL.MASK_ON
    coco = load_detector_config(CONFIG_ROOT / "coco/R_50_FPN_1x.yaml")
    assert tuple(range(640, 801, 32)) == coco.INPUT.MIN_SIZE_TRAIN and coco.MODEL.MASK_ON
    assert (coco.SOLVER.STEPS, coco.SOLVER.MAX_ITER) == ((60000, 80000), 90000)


def test_demo_rows_differ_in_their_weights_only() -> None:
    one, other = (
        flat(load_detector_config(CONFIG_ROOT / f"demo/R_18_FPN_{init}.yaml")) for init in ("random", "infomin")
    )
    assert {key for key in one if one[key] != other[key]} == {"MODEL.WEIGHTS"}


@pytest.mark.parametrize("run", [run for run in RUNS if run.endswith("_random.yaml")])
def test_detector_of_every_family_has_the_norms_that_it_names(run: str) -> None:
    config = load_detector_config(CONFIG_ROOT / run)
    model = build_without_memory(config)
    kinds = {
        name: type(module).__name__ for name, module in model.named_modules() if "BatchNorm" in type(module).__name__
    }
    expected = "BatchNorm2d" if run.startswith("demo/") else "SyncBatchNorm"
    assert set(kinds.values()) == {expected}
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())  # FREEZE_AT 0: the stem too
    heads = [name for name in kinds if name.startswith("roi_heads.") and "roi_heads.res5.0" not in name]
    family = run.split("/")[1]
    if "C4" in family:
        assert "roi_heads.res5.norm" in kinds
    elif "moco" in family or "R_18" in family:
        assert heads == []
    else:
        assert sum("box_head" in name for name in heads) == 4 and sum("mask_head" in name for name in heads) == 4
        assert [name for name, _ in model.roi_heads.box_head.named_children() if name.startswith("fc")] == [
            "fc1",
            "fc_relu1",
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", ["voc/R_50_C4_24k.yaml", "coco/R_50_FPN_1x.yaml", "coco/R_50_FPN_moco_1x.yaml"]
)
def test_a_detector_of_each_family_and_initialisation_is_built_on_the_cpu(run: str) -> None:
    config = load_detector_config(CONFIG_ROOT / run, ["MODEL.DEVICE", "cpu"])
    model = build_model(config)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert model.pixel_mean.flatten().tolist() == pytest.approx(config.MODEL.PIXEL_MEAN)


# --- reading ----------------------------------------------------------------------------------------------------------

TAGS = [
    "!!python/object/apply:os.mkdir ['{canary}']",
    "!!python/object/new:os.mkdir ['{canary}']",
    "!!python/name:os.mkdir",
    "!!python/tuple [1, 2]",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["file", "base", "base of a base", "second of two bases"])
def test_python_tags_are_refused_and_never_run(tmp_path: Path, tag: str, place: str) -> None:
    canary = tmp_path / "canary"
    bad = write(tmp_path, f"OUTPUT_DIR: {tag.format(canary=canary)}\n", "bad.yaml")
    good = write(tmp_path, "SEED: 1\n", "good.yaml")
    run = {
        "file": bad,
        "base": write(tmp_path, "_BASE_: bad.yaml\n", "one.yaml"),
        "second of two bases": write(tmp_path, f"_BASE_: [{good.name}, bad.yaml]\n", "two.yaml"),
        "base of a base": write(tmp_path, "_BASE_: ../one.yaml\n", "sub/deep.yaml"),
    }[place]
    with pytest.raises(ConfigError, match=r"bad\.yaml is not plain YAML") as caught:
        load_detector_config(run)
    assert "python/" in str(caught.value) and not canary.exists()


def test_the_canary_would_sing_under_detectron2s_own_reader(tmp_path: Path) -> None:
    """The negative control: without the guard the tag runs."""
    from detectron2.config import get_cfg

    canary = tmp_path / "canary"
    bad = write(tmp_path, f"OUTPUT_DIR: {TAGS[0].format(canary=canary)}\n")
    get_cfg().merge_from_file(str(bad), allow_unsafe=True)  # its default
    assert canary.is_dir()


def test_list_of_bases_is_merged_in_order_and_the_file_wins(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\nOUTPUT_DIR: one\nSOLVER: {MAX_ITER: 10}\n", "one.yaml")
    write(tmp_path, "SEED: 2\nOUTPUT_DIR: two\n", "two.yaml")
    config = load_detector_config(write(tmp_path, "_BASE_: [one.yaml, two.yaml]\nSEED: 3\n"))
    assert (config.SEED, config.OUTPUT_DIR, config.SOLVER.MAX_ITER) == (3, "two", 10)


def test_command_line_wins_over_every_file(tmp_path: Path) -> None:
    path = write(tmp_path, "SEED: 3\n")
    config = load_detector_config(path, ["SEED", "4", "INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.WEIGHTS", "a b.pth"])
    assert (config.SEED, config.INPUT.MIN_SIZE_TRAIN, config.MODEL.WEIGHTS) == (4, (64,), "a b.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: absent.yaml", "no configuration file at .*absent.yaml"),
        ("_BASE_: run.yaml", "_BASE_ entries form a circle"),
        ("_BASE_: 3", "_BASE_ expected a path or a list of paths, found 3"),
        ("_BASE_: https://example.org/a.yaml", "is an address; expected a file"),
        ("- a\n- b", "expected `key: value` lines, found list"),
        ("SOLVER: {BASE_LRR: 0.1}", "unknown key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?"),
        ("SEED: 1\nSEED: 2", "is given twice"),
        ("SOLVER: {MAX_ITER: many}", "Type mismatch|type"),
        ("a: [1", "is not plain YAML"),
    ],
)
def test_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_detector_config(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SEED"], "expected pairs KEY VALUE, found 1 words; the last one, 'SEED', has no partner"),
        (["SOLVER.BASE_LRR", "1"], "unknown key SOLVER.BASE_LRR; did you mean SOLVER.BASE_LR?"),
        (["SEED=1"], "expected KEY VALUE with a space, for example SEED 1"),
        (["SEED", "1", "--resume"], "--resume is among the KEY VALUE pairs: flags go before the first KEY"),
        (["SEED", "one"], "SEED one: "),
        (["MODEL", "3"], "unknown key MODEL"),
    ],
)
def test_bad_command_line_says_what_to_type(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_detector_config(write(tmp_path, "SEED: 1\n"), words)


def test_shipped_files_are_found_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_config_path("voc/R_50_C4_24k.yaml") == CONFIG_ROOT / "voc/R_50_C4_24k.yaml"
    mine = write(tmp_path, "SEED: 1", "voc/R_50_C4_24k.yaml")
    assert resolve_config_path("voc/R_50_C4_24k.yaml").resolve() == mine  # the user's own comes first


def test_absent_file_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean voc/R_50_C4_24k_infomin\.yaml\?"):
        resolve_config_path("voc/R_50_C4_24k_infomn.yaml")
    with pytest.raises(ConfigError, match="no configuration: give --config-file"):
        resolve_config_path("")


# --- what the machine decides -----------------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def resolved(*words: str, run: str = RUNS[0], **over):
    """The configuration that runs, and what is said about it."""
    asked = load_detector_config(CONFIG_ROOT / run, words)
    before = asked.dump()
    config, notes = resolve_config(asked, given=frozenset(words[::2]), **over)
    assert config.is_frozen() and asked.dump() == before  # what was asked for stays as it was
    return config, notes


@pytest.mark.usefixtures("no_cuda")
def test_missing_cuda_device_falls_back_to_the_cpu_and_says_so() -> None:
    config, notes = resolved()
    assert config.MODEL.DEVICE == "cpu" and any("running on the CPU" in sentence for sentence in notes)


@pytest.mark.usefixtures("no_cuda")
def test_cuda_device_that_was_asked_for_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="pass MODEL.DEVICE cpu"):
        resolved("MODEL.DEVICE", "cuda")


def test_device_that_is_there_is_used(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved()[0].MODEL.DEVICE == "cuda"


@pytest.mark.parametrize(("words", "warned"), [([], True), (["MODEL.DEVICE", "cpu"], False)])
def test_a_file_that_keeps_the_demo_on_the_cpu_of_a_gpu_machine_is_reported(monkeypatch, words, warned) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, notes = resolved(*words, run="demo/R_18_FPN.yaml")
    assert config.MODEL.DEVICE == "cpu" and any("pass MODEL.DEVICE cuda" in sentence for sentence in notes) is warned


def test_missing_seed_is_drawn_and_recorded_and_a_given_one_kept() -> None:
    config, notes = resolved("MODEL.DEVICE", "cpu")
    assert 0 <= config.SEED < 2**31 and f"no SEED given: drew SEED {config.SEED}" in notes
    assert resolved("MODEL.DEVICE", "cpu", "SEED", "0")[0].SEED == 0


def test_loader_processes_that_were_asked_for_are_kept() -> None:
    assert resolved("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "64")[0].DATALOADER.NUM_WORKERS == 64
    assert resolved("MODEL.DEVICE", "cpu")[0].DATALOADER.NUM_WORKERS < 64


# --- the schedule -----------------------------------------------------------------------------------------------------

EIGHT = ("SOLVER.REFERENCE_WORLD_SIZE", "8", "MODEL.DEVICE", "cpu", "SEED", "0", "DATALOADER.NUM_WORKERS", "0")


def test_a_schedule_for_eight_processes_is_scaled_to_two_before_anything_reads_it() -> None:
    """Detectron2 scaled a copy of its own: the record kept 90,000 iterations of a run of 360,000, and cut its history there."""
    config, notes = resolved(*EIGHT, run="coco/R_50_FPN_1x.yaml", num_processes=2)
    solver = config.SOLVER
    schedule = (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS, round(solver.BASE_LR, 9))
    assert schedule == (4, 360000, (240000, 320000), 0.005) and any("now 2 processes" in note for note in notes)
    assert DefaultTrainer.auto_scale_workers(config, 2) is config  # what the trainer runs is what was returned
    assert resolved(*EIGHT, run="coco/R_50_FPN_1x.yaml", num_processes=8)[0].SOLVER.MAX_ITER == 90000


def test_a_schedule_that_cannot_be_scaled_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a divisor of SOLVER.IMS_PER_BATCH 16"):
        resolved(*EIGHT, "SOLVER.REFERENCE_WORLD_SIZE", "5")


@pytest.mark.parametrize(
    ("max_iter", "kept", "said"),
    [
        (
            "60000",
            (),
            "SOLVER.STEPS 60000, 80000 not reached in SOLVER.MAX_ITER 60000 iterations",
        ),  # Detectron2 stops here
        ("70000", (60000,), "SOLVER.STEPS 80000 not reached"),
        ("90000", (60000, 80000), None),
    ],
)
def test_learning_rate_steps_after_the_end_are_dropped_and_reported(
    max_iter: str, kept: tuple, said: str | None
) -> None:
    words = ("SOLVER.MAX_ITER", max_iter, "MODEL.DEVICE", "cpu", "SEED", "0")
    config, notes = resolved(*words, run="coco/R_50_FPN_1x.yaml")
    assert kept == config.SOLVER.STEPS and (said is None or any(note.startswith(said) for note in notes))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    build_lr_scheduler(config, optimizer)  # the traceback that there was


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SOLVER.STEPS", "(20, 10)"), r"SOLVER.STEPS \(20, 10\): expected iterations in ascending order"),
        (("SOLVER.STEPS", "(0,)"), "from 1 on"),
        (("SOLVER.MAX_ITER", "0"), "SOLVER.MAX_ITER 0: expected 1 or more"),
    ],
)
def test_a_schedule_that_cannot_run_is_refused_with_what_to_type(words: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved("MODEL.DEVICE", "cpu", *words)


def supported(*words: str, run: str = "coco/R_50_FPN_1x.yaml", num_processes: int = 1) -> list[str]:
    return check_supported(load_detector_config(CONFIG_ROOT / run, ["MODEL.DEVICE", "cpu", *words]), num_processes)


def test_syncbn_of_one_process_is_said_to_be_plain_bn() -> None:
    assert "plain BN over the 16 images" in supported()[0]
    assert supported(num_processes=8) == []
    assert supported(run="demo/R_18_FPN.yaml") == []


def test_precise_bn_longer_than_the_run_is_said() -> None:
    said = supported("SOLVER.MAX_ITER", "10")
    assert "TEST.PRECISE_BN.NUM_ITER 10" in said[1] and "200 batches" in said[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["INPUT.FORMAT", "L"], "INPUT.FORMAT 'L': expected RGB or BGR"),
        (["SOLVER.AMP.ENABLED", "True"], "pass SOLVER.AMP.ENABLED False"),
        (["MODEL.LOAD_PROPOSALS", "True"], "pass MODEL.LOAD_PROPOSALS False"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH 0"),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_type(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        supported(*words)


def test_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the number of processes, 3"):
        supported(num_processes=3)
