"""Run folders as versions before record.json left them (every figure is made up)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.transfer.conftest import (
    CLASSES,
    SIDECAR,
    epochs_of,
    metrics_of,
    write_detection_files,
    write_pretraining_files,
)


def write_old_detection(path: Path, *, init: str, seed: int, ap50: float, **over: Any) -> Path:
    """A finished detection run; `over` replaces keys of result.json."""
    path.mkdir(parents=True)
    iterations = over.get("iterations", 600)
    result = {
        "format": "infomin-transfer/detection-result",
        "version": 1,
        "init": init,
        "weights": "" if init == "random" else "runs/weights/pretrained.pth",
        "sidecar": None if init == "random" else SIDECAR,
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
    write_detection_files(path, seed=seed, ap50=ap50, iterations=iterations)
    return path


def write_old_linear(path: Path, *, init: str, seed: int, top1: float, **over: Any) -> Path:
    """A finished readout; `over` replaces keys of linear_result.json."""
    path.mkdir(parents=True)
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
        "history": epochs_of(top1),
    } | over
    (path / "linear_result.json").write_text(json.dumps(result))
    return path


def write_old_pretraining(path: Path, *, finished: bool = True) -> Path:
    """A pre-training run of 400 steps."""
    path.mkdir(parents=True)
    config = (
        "data: {root: data/unlabelled}\nencoder: {arch: resnet18}\nviews: {image_size: 64}\nseed: 3\n"
        "method: {name: infomin, queue_size: 4096}\n"
    )
    (path / "config.yaml").write_text(config)
    (path / "environment.json").write_text(json.dumps({"torch": "2.x", "cpu": {"count": 2}, "git": {"dirty": False}}))
    (path / "command.txt").write_text("tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml\n")
    write_pretraining_files(path)
    if finished:
        result = {"format": "infomin-transfer/pretrain-result", "version": 1, "steps": 400, "final": {"loss": 3.3}}
        (path / "result.json").write_text(json.dumps(result))
    return path
