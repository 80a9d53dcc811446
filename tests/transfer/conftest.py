"""Synthetic run directories for the report's tests (every figure in them is made up), and tiny encoders for the layouts'."""

from __future__ import annotations

import functools
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.base.architecture import ARCHITECTURES
from tests.transfer.conversion.tiny_encoders import TINY
from transfer.demo_data.config import SyntheticConfig
from transfer.demo_data.write import write_dataset

CLASSES = ["cup", "leaf", "<b>bolt</b>"]


@pytest.fixture(scope="session")
def demo_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two test scenes of the demo data in both layouts: read only."""
    root = tmp_path_factory.mktemp("data") / "demo"
    config = SyntheticConfig(num_unlabelled=8, num_readout=8, num_train_scenes=4, num_test_scenes=2)
    write_dataset(config, root, num_workers=0)
    return root


@pytest.fixture
def damageable_scenes(demo_scenes: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(demo_scenes, tmp_path / "demo"))


@pytest.fixture
def tiny_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more entries in the table of encoders: tests/transfer/conversion/tiny_encoders.py."""
    for name, spec in TINY.items():
        monkeypatch.setitem(ARCHITECTURES, name, spec)


def metrics_of(ap50: float) -> dict[str, dict[str, float]]:
    """Box and mask metrics that belong to one AP50."""
    box = {"AP": ap50 * 0.55, "AP50": ap50, "AP75": ap50 * 0.5}
    return {"bbox": box, "segm": {name: value - 2 for name, value in box.items()}}


@functools.cache
def png_of(seed: int) -> bytes:
    """A smooth photo-like picture, 192 x 144, as PNG."""
    coarse = np.random.default_rng(seed).integers(60, 220, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((192, 144), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def write_image(path: Path, seed: int = 0) -> Path:
    """Write `png_of(seed)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_of(seed))
    return path


def write_detection(path: Path, *, init: str, seed: int, ap50: float, **over: Any) -> Path:
    """A finished detection run; `over` replaces keys of result.json."""
    path.mkdir(parents=True)
    images = [write_image(path.parent.parent / "images" / f"{i}.png", i) for i in range(3)]
    iterations = over.get("iterations", 600)
    sidecar = {
        "format": "infomin-transfer/sidecar",
        "version": 1,
        "weights_sha256": "ab" * 32,
        "arch": "resnet18",
        "source": {"name": "step_00000400.pt", "layout": "infomin-transfer", "branch": "query"},
        "detectron2": {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_STD": [58.395, 57.12, 57.375]},
        "proof": {
            "tensors_placed": 100,
            "relative_difference": {"stem": 1.2e-7, "res5": 3.1e-6},
            "negative_controls": True,
        },
    }
    result = {
        "format": "infomin-transfer/detection-result",
        "version": 1,
        "init": init,
        "weights": "" if init == "random" else "runs/weights/pretrained.pth",
        "sidecar": None if init == "random" else sidecar,
        "seed": seed,
        "iterations": iterations,
        "config_file": "transfer/configs/demo/R_18_FPN_small.yaml",
        "command": f"python tools/train_net.py --config-file transfer/configs/demo/R_18_FPN_small.yaml OUTPUT_DIR {path} SEED {seed}",
        "train_data": "coco:data/labelled/train.json:data/labelled/images",
        "test_data": "coco:data/labelled/test.json:data/labelled/images",
        "num_train_images": 200,
        "class_names": CLASSES,
        "metrics": metrics_of(ap50),
        "history": [{"iteration": iterations * k // 3, "metrics": metrics_of(ap50 * k / 3)} for k in (1, 2, 3)],
    } | over
    (path / "result.json").write_text(json.dumps(result))
    rng = np.random.default_rng(seed)
    rows = [
        {
            "iteration": i,
            "total_loss": 0.7 + 12 / ap50 + 2 * math.exp(-i / 150) + rng.normal(0, 0.08),
            "lr": 0.02 if i < 400 else 0.002,
        }
        for i in range(19, iterations, 20)
    ]
    (path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 5')
    truth = [{"box": [20, 20, 80, 90], "class": "cup"}, {"box": [100, 40, 170, 120], "class": "<b>bolt</b>"}]
    found = [
        {"box": [22, 19, 83, 88], "class": "cup", "score": 0.92},
        {"box": [5, 5, 30, 30], "class": "leaf", "score": 0.1},
    ]
    samples = [
        {
            "file": str(i),
            "width": 192,
            "height": 144,
            "class_names": CLASSES,
            "ground_truth": truth,
            "predictions": found,
        }
        for i in images
    ]
    (path / "samples.json").write_text(json.dumps({"images": samples}))
    return path


def write_linear(path: Path, *, init: str, seed: int, top1: float, **over: Any) -> Path:
    """A finished readout."""
    path.mkdir(parents=True)
    history = [
        {
            "epoch": e,
            "learning_rate": 30 * 0.2 ** ((e > 30) + (e > 40) + (e > 50)),
            "train_loss": 2.3 * 0.98 ** (e * top1 / 40),
            "top1": top1 * (1 - 0.8**e),
            "top5": 90.0,
        }
        for e in range(1, 61)
    ]
    result = {
        "format": "infomin-transfer/linear-result",
        "version": 1,
        "init": init,
        "weights": "random:resnet18" if init == "random" else "pretrained.pth",
        "arch": "resnet18",
        "seed": seed,
        "num_train": 4000,
        "num_val": 1000,
        "classes": [f"class {i}" for i in range(10)],
        "protocol": {"name": "not the paper's protocol: image_size=64", "is_paper": False, "top5_k": 5},
        "command": f"python tools/linear_eval.py --init-name {init} seed={seed}",
        "top1": top1,
        "top5": 90.0,
        "history": history,
    } | over
    (path / "linear_result.json").write_text(json.dumps(result))
    return path


def write_pretraining(path: Path, *, finished: bool = True) -> Path:
    """A pre-training run of 400 steps."""
    path.mkdir(parents=True)
    config = (
        "data: {root: data/unlabelled}\nencoder: {arch: resnet18}\nviews: {image_size: 64}\n"
        "method: {name: infomin, queue_size: 4096}\n"
    )
    (path / "config.yaml").write_text(config)
    (path / "environment.json").write_text(json.dumps({"torch": "2.x", "cpu": {"count": 2}, "git": {"dirty": False}}))
    (path / "command.txt").write_text("tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml\n")
    rng = np.random.default_rng(1)
    rows = [
        {
            "step": s,
            "epoch": s / 100,
            "loss": 8.32 - 5 * (1 - math.exp(-s / 120)) + rng.normal(0, 0.1),
            "accuracy": 0.7 * (1 - math.exp(-s / 200)),
            "learning_rate": 0.06 * (1 + math.cos(math.pi * s / 400)) / 2,
            "images_per_second": 310.0,
        }
        for s in range(2, 401, 2)
    ]
    (path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_image(path / "views.png", 5)
    if finished:
        result = {"format": "infomin-transfer/pretrain-result", "version": 1, "steps": 400, "final": {"loss": 3.3}}
        (path / "result.json").write_text(json.dumps(result))
    return path


def write_example(root: Path) -> Path:
    """A whole study with three seeds, one unfinished detection run and one odd folder."""
    write_pretraining(root / "pretrain")
    for seed, (random, infomin) in enumerate([(20.0, 26.0), (22.0, 27.0), (21.0, 31.0)]):
        write_detection(root / "detect" / f"random_seed{seed}", init="random", seed=seed, ap50=random)
        write_detection(root / "detect" / f"infomin_seed{seed}", init="infomin", seed=seed, ap50=infomin)
        write_linear(root / "readout" / f"random_seed{seed}", init="random", seed=seed, top1=31.0 + seed)
        write_linear(root / "readout" / f"infomin_seed{seed}", init="infomin", seed=seed, top1=55.0 + 2 * seed)
    unfinished = root / "detect" / "infomin_seed3"
    unfinished.mkdir()
    (unfinished / "metrics.json").write_text('{"iteration": 19, "total_loss": 900.0, "lr": 0.02, "bbox/AP50": 99.0}\n')
    (root / "notes").mkdir()
    return root


@pytest.fixture
def example_runs(tmp_path: Path) -> Path:
    """Folder of `write_example`'s runs."""
    return write_example(tmp_path / "runs")


@pytest.fixture
def make_detection():
    """Function that writes one detection run."""
    return write_detection


@pytest.fixture
def make_linear():
    """Function that writes one readout."""
    return write_linear


@pytest.fixture
def make_pretraining():
    """Function that writes one pre-training run."""
    return write_pretraining


def write_class_folders(
    root: Path, *, counts: dict[str, int], classes: tuple[str, ...] = ("blue", "green", "red")
) -> Path:
    """Class folders with noisy images of one colour a class, 40 x 36: a linear classifier tells them apart."""
    for split_number, (split, count) in enumerate(counts.items()):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng((split_number, label, i))
                pixels = rng.integers(0, 120, (36, 40, 3))
                pixels[..., 2 - label % 3] += 110
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory) -> Path:
    """Read-only folder for readouts: three classes, 7 training and 4 validation images each."""
    return write_class_folders(tmp_path_factory.mktemp("classes"), counts={"train": 7, "val": 4})


@pytest.fixture(scope="session")
def write_runs() -> SimpleNamespace:
    """The writers of this file, for fixtures that several tests share."""
    return SimpleNamespace(
        example=write_example,
        image=write_image,
        detection=write_detection,
        linear=write_linear,
        pretraining=write_pretraining,
    )
