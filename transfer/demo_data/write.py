"""The demo data set on disk: unlabelled class folders, and labelled scenes in the COCO and the VOC layout. Whole or not at all:

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
    """Images start..stop-1 of one part of the data set.

    part: unlabelled/train, unlabelled/val, train or test.
    """

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
        content = partial / "content"  # a folder of the usual mode; mkdtemp makes 0700
        content.mkdir()
        _fill(config, content, num_workers=num_workers, progress=progress)
        if root.exists():
            root.rmdir()  # empty, seen above
        content.rename(root)
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
    if not isinstance(record, dict) or any(record.get(key) != value for key, value in _record(config).items()):
        return False
    return record.get("sample_list_sha256") == _listing_digest(Path(root))


def _fill(
    config: SyntheticConfig, root: Path, *, num_workers: int, progress: Callable[[int, int], None] | None
) -> None:
    classes = [f"unlabelled/{split}/{name}" for split in ("train", "val") for name in CLASS_NAMES]
    coco = ["coco/annotations", "coco/train", "coco/test"]
    for folder in (*classes, *coco, "voc/JPEGImages", "voc/Annotations", "voc/ImageSets/Main"):
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
            root / f"coco/annotations/instances_{split}.json",
            coco_dataset(annotated, config.scene_size, config.scene_class_names),
        )
        _write_voc(root, split, annotated, config.scene_size)
    record = {**_record(config), "sample_list_sha256": _listing_digest(root), "images_sha256": digest.hexdigest()}
    write_json(root / "dataset.json", record)


def _record(config: SyntheticConfig) -> dict[str, Any]:
    """What dataset.json says of a data set before it is made."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": config.to_dict(),
        "classes": list(CLASS_NAMES),
    }


def _write_voc(root: Path, split: str, scenes: list[list[dict[str, Any]]], side: int) -> None:
    """One split in the VOC layout, from its COCO images and annotations."""
    names = [f"{split}_{index:06d}" for index in range(len(scenes))]
    for index, (name, records) in enumerate(zip(names, scenes, strict=True)):
        shutil.copyfile(root / "coco" / split / f"{index:06d}.jpg", root / "voc" / "JPEGImages" / f"{name}.jpg")
        (root / "voc" / "Annotations" / f"{name}.xml").write_text(voc_annotation(f"{name}.jpg", side, records))
    (root / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


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
    area, _, split = task.part.rpartition("/")  # "unlabelled" or nothing, and the split
    for index in range(task.start, task.stop):
        name = f"{index:06d}.jpg"
        if area:
            image, class_index = render_object_image(task.config, task.config.seed, index, split=split)
            path = task.root / task.part / CLASS_NAMES[class_index] / name
        else:
            image, objects = render_scene(task.config, task.config.seed, index, split=split)
            path = task.root / "coco" / split / name
            scenes.append(coco_objects(objects))
        data = _jpeg(image, task.config)
        path.write_bytes(data)
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
