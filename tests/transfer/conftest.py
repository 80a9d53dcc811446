"""Synthetic run directories for the report's tests (every figure in them is made up), and tiny encoders for the layouts'."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.atomic import write_json
from pretrain.base.record import RECORD, DataRecord, Initialisation, Record, experiment_hash, to_plain
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


SIDECAR = {
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
ENVIRONMENT = {"torch": "2.x", "cpu": {"count": 2}, "git": {"dirty": False}}


def write_record(folder: Path, record: Record, **over: Any) -> Path:
    """`record` with the fields `over` and its hash, as FOLDER/record.json."""
    folder.mkdir(parents=True, exist_ok=True)
    record = dataclasses.replace(record, **over)
    record = dataclasses.replace(record, hash=experiment_hash(record.experiment))
    write_json(folder / RECORD, to_plain(record))
    return folder


def start_of(init: str, weights: str | None, *, seed: int, random: str = "", **more: Any) -> Initialisation:
    """What a run starts from. weights: a name that stands for the content; None: random ones for the row "random"."""
    if init == "random" and weights is None:
        return Initialisation(init, "random", random, random_seed=seed)
    weights = weights or "runs/weights/pretrained.pth"
    sha = hashlib.sha256(weights.encode()).hexdigest()
    return Initialisation(init, "asked", weights, **{"sha256": sha, "layout": "infomin-transfer", **more})


def split(spec: str, num_images: int, num_available: int | None = None) -> DataRecord:
    """Data whose content is what its spec says."""
    return DataRecord(spec, hashlib.sha256(spec.encode()).hexdigest(), num_images, num_available)


def write_detection(
    path: Path,
    *,
    init: str,
    seed: int,
    ap50: float,
    weights: str | None = None,
    pretraining: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    train: DataRecord = split("coco:data/labelled/train.json:data/labelled/images", 200),  # noqa: B008  frozen
    test: DataRecord = split("coco:data/labelled/test.json:data/labelled/images", 50),  # noqa: B008
    classes: Sequence[str] = CLASSES,
    metric: str = "COCO AP, IoU .50:.95",
    figures: dict[str, float | None] | None = None,
    config_file: str = "transfer/configs/demo/R_18_FPN_small.yaml",
    **over: Any,
) -> Path:
    """A finished detection run. settings: "GROUP.KEY" of the configuration. over: fields of its record."""
    values = {"SOLVER.MAX_ITER": 600, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.BASE_LR": 0.01, **(settings or {})}
    iterations = values["SOLVER.MAX_ITER"]
    config: dict[str, Any] = {"SEED": seed}
    for key, value in values.items():
        group, _, name = key.partition(".")
        config.setdefault(group, {})[name] = value
    start = start_of(init, weights, seed=seed, pretraining=pretraining)
    record = Record(
        kind="detection",
        experiment={
            "config": values,
            "data": {"train": train.fingerprint, "test": test.fingerprint},
            "metric": metric,
            "class_names": list(classes),
        },
        config=config,
        seeds={"run": seed, "pretraining": (pretraining or {}).get("seed")},
        status="done",
        commands=(f"python tools/train_net.py --config-file {config_file} OUTPUT_DIR {path} SEED {seed}",),
        data={"train": train, "test": test},
        class_names=tuple(classes),
        metric=metric,
        initialisation=start,
        environment={"first": ENVIRONMENT, "latest": ENVIRONMENT},
        holder={"host": "somewhere", "pid": 7},
        started="2026-11-27T03:00:00+00:00",
        ended="2026-11-27T04:00:00+00:00",
        figures=flat_metrics(ap50) if figures is None else figures,
        history=tuple({"iteration": iterations * k // 3, **flat_metrics(ap50 * k / 3)} for k in (1, 2, 3)),
        details={
            "config_file": config_file,
            "iterations": iterations,
            **({"sidecar": SIDECAR} if start.weights else {}),
        },
    )
    write_record(path, record, **over)
    write_detection_files(path, seed=seed, ap50=ap50, iterations=iterations)
    return path


def flat_metrics(ap50: float) -> dict[str, float]:
    """ "bbox/AP50" -> AP points."""
    return {f"{task}/{name}": value for task, of in metrics_of(ap50).items() for name, value in of.items()}


def write_detection_files(path: Path, *, seed: int, ap50: float, iterations: int) -> None:
    """Detectron2's metrics.json, with a line that a kill cut short, and samples.json with its images."""
    images = [write_image(path.parent.parent / "images" / f"{i}.png", i) for i in range(3)]
    rng = np.random.default_rng(seed)
    rows = [
        {
            "iteration": i,
            "total_loss": 0.7 + 12 / ap50 + 2 * math.exp(-i / 150) + rng.normal(0, 0.08),
            "lr": 0.02 if i < 400 else 0.002,
        }
        for i in range(19, iterations, max(20, iterations // 30))  # a published schedule has 90,000 iterations
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


def write_linear(
    path: Path,
    *,
    init: str,
    seed: int,
    top1: float,
    weights: str | None = None,
    arch: str = "resnet18",
    settings: dict[str, Any] | None = None,
    train: DataRecord = split("data/readout/train", 4000),  # noqa: B008
    test: DataRecord = split("data/readout/val", 1000),  # noqa: B008
    classes: Sequence[str] = tuple(f"class {i}" for i in range(10)),
    protocol: dict[str, Any] | None = None,
    **over: Any,
) -> Path:
    """A finished readout. over: fields of its record."""
    values = {"epochs": 60, "image_size": 64, **(settings or {})}
    record = Record(
        kind="readout",
        experiment={
            "config": values,
            "data": {"train": train.fingerprint, "test": test.fingerprint},
            "arch": arch,
            "class_names": list(classes),
        },
        config={**values, "seed": seed},
        seeds={"run": seed, "pretraining": None},
        status="done",
        commands=(f"python tools/linear_eval.py --init-name {init} seed={seed}",),
        data={"train": train, "test": test},
        class_names=tuple(classes),
        metric="top-1 and top-5 accuracy, %",
        initialisation=start_of(init, weights, seed=seed, random=f"random:{arch}"),
        figures={"top1": top1, "top5": 90.0},
        history=tuple(epochs_of(top1)),
        details={"protocol": protocol or {"name": "not the paper's protocol: image_size=64", "is_paper": False}},
    )
    return write_record(path, record, **over)


def epochs_of(top1: float) -> list[dict[str, float]]:
    """History of a readout of 60 epochs."""
    return [
        {
            "epoch": e,
            "learning_rate": 30 * 0.2 ** ((e > 30) + (e > 40) + (e > 50)),
            "train_loss": 2.3 * 0.98 ** (e * top1 / 40),
            "top1": top1 * (1 - 0.8**e),
            "top5": 90.0,
        }
        for e in range(1, 61)
    ]


def write_pretraining(path: Path, *, finished: bool = True, **over: Any) -> Path:
    """A pre-training run of 400 steps. over: fields of its record."""
    config = {
        "data": {"root": "data/unlabelled"},
        "encoder": {"arch": "resnet18"},
        "views": {"image_size": 64},
        "method": {"name": "infomin", "queue_size": 4096},
    }
    images = split("data/unlabelled", 4000)
    record = Record(
        kind="pretraining",
        experiment={"config": {"method.name": "infomin"}, "data": {"images": images.fingerprint}},
        config=config,
        seeds={"run": 0},
        status="done" if finished else "running",
        commands=("python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",),
        data={"images": images},
        initialisation=Initialisation("random", "random", random_seed=0),
        environment={"first": ENVIRONMENT, "latest": ENVIRONMENT},
        holder={"host": "somewhere", "pid": 8},
        started="2026-11-27T01:00:00+00:00",
        figures={"loss": 3.3} if finished else {},
        details={"steps": 400} if finished else {},
    )
    write_record(path, record, **over)
    write_pretraining_files(path)
    return path


def write_pretraining_files(path: Path) -> None:
    """log.jsonl and views.png."""
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


def write_example(root: Path) -> Path:
    """A whole study with three seeds, one unfinished detection run and one odd folder."""
    write_pretraining(root / "pretrain")
    for seed, (random, infomin) in enumerate([(20.0, 26.0), (22.0, 27.0), (21.0, 31.0)]):
        write_detection(root / "detect" / f"random_seed{seed}", init="random", seed=seed, ap50=random)
        write_detection(root / "detect" / f"infomin_seed{seed}", init="infomin", seed=seed, ap50=infomin)
        write_linear(root / "readout" / f"random_seed{seed}", init="random", seed=seed, top1=31.0 + seed)
        write_linear(root / "readout" / f"infomin_seed{seed}", init="infomin", seed=seed, top1=55.0 + 2 * seed)
    unfinished = write_detection(
        root / "detect" / "infomin_seed3", init="infomin", seed=3, ap50=99.0, status="running", ended=None
    )
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
        record=write_record,
    )
