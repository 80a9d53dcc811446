"""Which runs are one experiment: what a comparison is about changes no hash, what decides a figure does."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.record import experiment_hash
from tests.cases import each
from transfer.detect.config import load_detector_config, plain_values, resolve_config
from transfer.detect.config_files import CONFIG_ROOT, shipped_runs
from transfer.detect.experiment import experiment_config
from transfer.detect.inits import apply_init, parse_init

FAMILIES = [path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()]


def hash_of(run: str, *words: str, num_processes: int = 1, init: str | None = None) -> str:
    asked = load_detector_config(CONFIG_ROOT / run, words)
    if init:
        apply_init(asked, parse_init(init), frozenset(words[::2]))
    config, _ = resolve_config(asked, given=frozenset(words[::2]), num_processes=num_processes)
    return experiment_hash(experiment_config(plain_values(config)))


@pytest.mark.parametrize("family", ["voc/R_50_C4_24k.yaml", "coco/R_50_FPN_1x.yaml"])
def test_the_initialisations_of_a_family_are_one_experiment(family: str) -> None:
    inits = ("random", "random_bgr", "msra_r50", "mine=torchvision_r50")
    assert len({hash_of(family, "SEED", str(seed), init=init) for seed, init in enumerate(inits)}) == 1


def test_families_are_different_experiments() -> None:
    assert len({hash_of(family, "SEED", "0") for family in FAMILIES}) == len(FAMILIES)


SMALL = "demo/R_18_FPN.yaml"


@each(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.02"),
        ("SOLVER.IMS_PER_BATCH", "8"),
        ("SOLVER.MAX_ITER", "401"),
        ("INPUT.MIN_SIZE_TRAIN", "(160,)"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "3"),
        ("TEST.AUG.ENABLED", "True"),
        ("MODEL.BACKBONE.FREEZE_AT", "2"),
    ],
)
def test_what_decides_a_figure_makes_another_experiment(key: str, value: str) -> None:
    assert hash_of(SMALL, key, value) != hash_of(SMALL)


@each(
    ("key", "value"),
    [
        ("SEED", "9"),
        ("MODEL.WEIGHTS", "runs/mine.pth"),
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.PIXEL_STD", "(1.0, 1.0, 1.0)"),
        ("OUTPUT_DIR", "elsewhere"),
        ("DATALOADER.NUM_WORKERS", "7"),
        ("SOLVER.CHECKPOINT_PERIOD", "3"),
        ("TEST.EVAL_PERIOD", "3"),
    ],
)
def test_what_a_comparison_is_about_and_where_it_runs_make_the_same_experiment(key: str, value: str) -> None:
    assert hash_of(SMALL, key, value) == hash_of(SMALL)


def test_the_device_makes_no_other_experiment(monkeypatch) -> None:
    on_cpu = hash_of(SMALL, "MODEL.DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert hash_of(SMALL, "MODEL.DEVICE", "cuda") == on_cpu


def test_a_schedule_is_what_runs_however_it_was_written() -> None:
    """Scaled by Detectron2's rule, or written out; with a step that is never reached, or without it."""
    words = (
        "SOLVER.IMS_PER_BATCH",
        "8",
        "SOLVER.BASE_LR",
        "0.02",
        "SOLVER.MAX_ITER",
        "200",
        "SOLVER.STEPS",
        "(140, 180)",
    )
    scaled = hash_of(SMALL, "SOLVER.REFERENCE_WORLD_SIZE", "1", num_processes=2)
    assert scaled == hash_of(SMALL, *words, "SOLVER.WARMUP_ITERS", "25", num_processes=2)
    assert hash_of(SMALL, "SOLVER.STEPS", "(280, 360, 400)") == hash_of(SMALL)
