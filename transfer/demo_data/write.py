"""The demo data set on disk: unlabelled class folders, and labelled scenes in the COCO and the VOC layout.

In: configuration, target folder, number of worker processes. Out, whole or not at all:

    unlabelled/{train,val}/<class>/<index>.jpg
    coco/{train,test}/<index>.jpg, coco/annotations/instances_{train,test}.json
    voc/JPEGImages/<split>_<index>.jpg, voc/Annotations/<split>_<index>.xml, voc/ImageSets/Main/{train,test}.txt
    dataset.json

The bytes depend on the configuration only, not on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pretrain.base.atomic import sync_directory, write_json
from pretrain.base.errors import DataError
from transfer.demo_data.annotations import coco_dataset, coco_objects, voc_annotation
from transfer.demo_data.config import CLASS_NAMES, FORMAT, FORMAT_VERSION, SyntheticConfig
from transfer.demo_data.scenes import render_object_image, render_scene

_CHUNK = 64  # images a task: small enough for an even progress bar, large enough to hide the process hop


@dataclass(frozen=True)
class _Task:
    """Images start..stop-1 of one part. part: unlabelled/train, unlabelled/val, train or test."""

    config: SyntheticConfig
    root: Path
    part: str
    start: int
    stop: int


def write_dataset(
    config: SyntheticConfig, root: Path, *, num_workers: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Generate the data set into `root`, or return at once where `root` already holds exactly it.

    num_workers: processes; 0 or 1 renders in this one. progress: called with (images done, images in all).
    Everything is written into a hidden folder beside `root` and renamed at the end. Raises DataError when `root` holds
    anything else, or cannot be written.
    """
    root = Path(root)
    if is_complete(root, config):
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root}: expected an empty or new folder, or this very demo data set, found other content: "
            "choose another --output-dir, or delete it"
        )
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".partial", dir=root.parent))
    except OSError as error:
        raise DataError(
            f"{root}: expected a folder that can be written, found: {error.strerror}. Choose another --output-dir"
        ) from error
    try:
        _fill(config, partial, num_workers=num_workers, progress=progress)
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes 0700
        if root.exists():
            root.rmdir()  # empty, seen above
        partial.rename(root)
        sync_directory(root.parent)
    except OSError as error:
        raise DataError(f"{root}: could not write the demo data set: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_complete(root: Path, config: SyntheticConfig) -> bool:
    """Whether `root` holds the data set of exactly this configuration and format, no file missing, added or resized."""
    try:
        record = json.loads((Path(root) / "dataset.json").read_text())
    except (OSError, ValueError):
        return False
    expected = {"format": FORMAT, "version": FORMAT_VERSION, "config": config.to_dict(), "classes": list(CLASS_NAMES)}
    if not isinstance(record, dict) or any(record.get(key) != value for key, value in expected.items()):
        return False
    return record.get("sample_list_sha256") == _listing_digest(Path(root))


def _fill(
    config: SyntheticConfig, root: Path, *, num_workers: int, progress: Callable[[int, int], None] | None
) -> None:
    for split in ("train", "val"):
        for name in CLASS_NAMES:
            (root / "unlabelled" / split / name).mkdir(parents=True)
    for folder in (
        "coco/annotations",
        "coco/train",
        "coco/test",
        "voc/JPEGImages",
        "voc/Annotations",
        "voc/ImageSets/Main",
    ):
        (root / folder).mkdir(parents=True)
    counts = {
        "unlabelled/train": config.num_unlabelled,
        "unlabelled/val": config.num_readout,
        "train": config.num_train_scenes,
        "test": config.num_test_scenes,
    }
    tasks = [
        _Task(config, root, part, start, min(start + _CHUNK, count))
        for part, count in counts.items()
        for start in range(0, count, _CHUNK)
    ]
    total, done = sum(counts.values()), 0
    digest = hashlib.sha256()
    scenes: dict[str, list[list[dict[str, Any]]]] = {"train": [], "test": []}
    for task, (objects, hashes) in zip(tasks, _run(tasks, num_workers), strict=True):
        digest.update("".join(hashes).encode())
        if task.part in scenes:
            scenes[task.part] += objects
        done += task.stop - task.start
        if progress is not None:
            progress(done, total)
    for split, annotated in scenes.items():
        write_json(
            root / "coco" / "annotations" / f"instances_{split}.json", coco_dataset(annotated, config.scene_size)
        )
        names = "".join(f"{split}_{index:06d}\n" for index in range(len(annotated)))
        (root / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    record = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": config.to_dict(),
        "classes": list(CLASS_NAMES),
        "sample_list_sha256": _listing_digest(root),
        "images_sha256": digest.hexdigest(),
    }
    write_json(root / "dataset.json", record)


def _run(tasks: list[_Task], num_workers: int) -> Iterator[tuple[list[list[dict[str, Any]]], list[str]]]:
    """Results of the tasks in their order, whatever the number of processes."""
    if num_workers <= 1:
        yield from map(_render, tasks)
        return
    # spawn: a fork of a process that has run torch or OpenCV threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        yield from pool.map(_render, tasks)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # one process a core already


def _render(task: _Task) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Render and write one task's images. Returns the COCO objects of each scene (none for unlabelled), and file hashes."""
    scenes, hashes = [], []
    for index in range(task.start, task.stop):
        if task.part in ("train", "test"):
            image, objects = render_scene(
                task.config, task.config.seed, index, split="train" if task.part == "train" else "test"
            )
            name = f"{index:06d}.jpg"
            data = _jpeg(image, task.config)
            (task.root / "coco" / task.part / name).write_bytes(data)
            (task.root / "voc" / "JPEGImages" / f"{task.part}_{name}").write_bytes(data)
            xml = voc_annotation(f"{task.part}_{name}", image.shape, objects)
            (task.root / "voc" / "Annotations" / f"{task.part}_{index:06d}.xml").write_text(xml)
            scenes.append(coco_objects(objects))
        else:
            image, class_index = render_object_image(
                task.config, task.config.seed, index, split="train" if task.part == "unlabelled/train" else "val"
            )
            data = _jpeg(image, task.config)
            (task.root / task.part / CLASS_NAMES[class_index] / f"{index:06d}.jpg").write_bytes(data)
        hashes.append(hashlib.sha256(data).hexdigest())
    return scenes, hashes


def _jpeg(image: np.ndarray, config: SyntheticConfig) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG file."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    )
    return data.tobytes()


def _listing_digest(root: Path) -> str:
    """SHA-256 of every file's relative path and size, `dataset.json` and hidden files left out."""
    lines = []
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if name != "dataset.json" and not name.startswith("."):
                lines.append(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
