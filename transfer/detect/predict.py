"""A trained detector shown new images.

In: `PredictOptions`. Out, in a folder of its own:

    predictions.json    a COCO data set: images, categories, and a detection an annotation, with its score
    coco_results.json   the same detections as a results file (pycocotools: COCO.loadRes)
    images/             the images with boxes, masks, keypoints, names and scores; sheet.jpg, the first of them
    record.json         command, weights, threshold, versions, time an image, files that could not be read

Reading, network and values are those of `train_net.py --eval-only`: one image at a time gives the same bits. Of a larger batch
only images of one size run together, so that none is padded for another: what differs then is the rounding of sums.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_codes
from torch import Tensor
from tqdm import tqdm

from pretrain.base.atomic import hold_folder, write_text
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.image_files import read_image
from pretrain.base.record import RECORD, DataRecord, OpenRecord, Record
from pretrain.base.signals import ending_on_sigterm
from transfer.data.image_list import ImageList, image_ids, list_inputs
from transfer.detect.config import plain_values
from transfer.detect.examples import SharedReaderMapper
from transfer.detect.pictures import Pictures
from transfer.detect.trained import TrainedDetector, load_trained

DATA_SET, RESULTS, DRAWN, SHEET = "predictions.json", "coco_results.json", "images", "sheet.jpg"
AGAIN = "give the command again with another --output-dir"
MAX_NAMED = 10  # files that a message names; the record has all
LOOK_AHEAD = 4  # batches among which images of one size are looked for


@dataclass(frozen=True)
class PredictOptions:
    """detector: RUN folder, weight file or address. images: files, folders, lists. output_dir: new or empty.

    threshold: least score of what is kept, in [0, 1]. config_file, overrides, class_names: of `load_trained`.
    batch_size: images that run together where they have one size. draw: write pictures.
    """

    detector: str
    images: tuple[str, ...]
    output_dir: Path
    threshold: float = 0.5
    config_file: str | None = None
    overrides: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    batch_size: int = 1
    draw: bool = True
    command: str = ""


@dataclass(frozen=True)
class Outcome:
    """What was done. unreadable: name -> why. network_seconds, seconds: an image."""

    output_dir: Path
    num_images: int
    num_detections: int
    unreadable: dict[str, str]
    network_seconds: float
    seconds: float

    def summary(self) -> str:
        """One line."""
        return (
            f"{self.num_detections} detections on {self.num_images - len(self.unreadable)} images in {self.output_dir}: "
            f"{self.network_seconds * 1000:.0f} ms an image in the network, {self.seconds * 1000:.0f} ms in all"
        )

    def require_all(self) -> None:
        """Raises DataError where images could not be read: the others are done, but the command has not done what was asked."""
        if not self.unreadable:
            return
        lines = [f"  {reason}" for reason in list(self.unreadable.values())[:MAX_NAMED]]
        more = [f"  ... all of them are in {self.output_dir / RECORD}"] if len(self.unreadable) > MAX_NAMED else []
        raise DataError(
            "\n".join([f"{len(self.unreadable)} of {self.num_images} images could not be read:", *lines, *more])
        )


@dataclass(frozen=True)
class ReadImage:
    """index: in the list. pixels: upright RGB, uint8 (H, W, 3). tensor: what the network is fed."""

    index: int
    pixels: np.ndarray
    tensor: Tensor

    @property
    def example(self) -> dict[str, Any]:
        """As Detectron2's models take it."""
        height, width = self.pixels.shape[:2]
        return {"image": self.tensor, "height": height, "width": width}


def predict(options: PredictOptions, say: Callable[[str], object]) -> Outcome:
    """Find the images, load the detector, run it on all of them and write what the module's docstring lists.

    say: is told what a user may not expect. Raises ConfigError, CheckpointError or DataError before anything is written; DataError
    where no image at all can be read; Terminated after SIGTERM. Some unreadable images are in the outcome.
    """
    _check(options)
    images = list_inputs(options.images)
    with hold_folder(options.output_dir, own=()):
        detector = load_trained(
            options.detector,
            config_file=options.config_file,
            overrides=options.overrides,
            class_names=options.class_names,
        )
        for sentence in (*detector.notes, *(f"warning: {text}" for text in detector.warnings)):
            say(sentence)
        if images.num_repeated:
            say(f"{images.num_repeated} images are named more than once: each is run once")
        if options.threshold < detector.min_score:
            say(
                f"the detector itself returns nothing below {detector.min_score:g}, so --threshold {options.threshold:g} adds nothing; "
                "pass --opts MODEL.ROI_HEADS.SCORE_THRESH_TEST (of a RetinaNet MODEL.RETINANET.SCORE_THRESH_TEST) for more"
            )
        begun = _record(options, detector, images)
        with ending_on_sigterm(AGAIN), OpenRecord(options.output_dir / RECORD, begun) as record:
            outcome = _run(options, detector, images)
            figures = {
                "seconds_per_image": outcome.seconds,
                "network_seconds_per_image": outcome.network_seconds,
                "detections": float(outcome.num_detections),
            }
            record.finish(figures, details={**record.record.details, "unreadable": outcome.unreadable})
    return outcome


def _check(options: PredictOptions) -> None:
    if not (math.isfinite(options.threshold) and 0 <= options.threshold <= 1):
        raise ConfigError(f"--threshold {options.threshold:g}: expected a score from 0 to 1")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size {options.batch_size}: expected 1 or more")
    output = options.output_dir.expanduser().resolve()
    for word in options.images:
        folder = Path(word).expanduser()
        if folder.is_dir() and output.is_relative_to(folder.resolve()):
            raise ConfigError(
                f"--output-dir {options.output_dir} lies in {word}, where its pictures would be taken for images the next time; "
                "name another folder"
            )


def _record(options: PredictOptions, detector: TrainedDetector, images: ImageList) -> Record:
    data = DataRecord(" ".join(options.images), images.fingerprint(), len(images.names))
    return Record(
        kind="prediction",
        experiment={
            "detector": detector.describe(),
            "config": plain_values(detector.config),
            "threshold": options.threshold,
            "data": data.fingerprint,
        },
        config=plain_values(detector.config),
        seeds={},
        commands=(options.command,) if options.command else (),
        data={"images": data},
        class_names=detector.class_names,
        details={
            "detector": {**detector.describe(), "file": detector.weights},
            "threshold": options.threshold,
            "batch_size": options.batch_size,
            "detectron2": detectron2.__version__,
            "image_dir": str(images.root),
        },
    )


def _run(options: PredictOptions, detector: TrainedDetector, images: ImageList) -> Outcome:
    """The loop over the images, and the files."""
    out, start, in_network = options.output_dir, time.perf_counter(), 0.0
    unreadable: dict[str, str] = {}
    found: dict[int, tuple[tuple[int, int], list[dict[str, Any]]]] = {}
    ids = image_ids(images.names)
    pictures = Pictures(detector, out / DRAWN) if options.draw else None
    with pictures or nullcontext(), tqdm(total=len(images.names), unit="image", desc="predicting", disable=None) as bar:
        stream = read_ahead(detector, images, unreadable, count=options.batch_size * 2)
        for batch in batches(stream, options.batch_size):
            clock = time.perf_counter()
            instances = infer(detector, batch)
            in_network += time.perf_counter() - clock
            for image, result in zip(batch, instances, strict=True):
                kept = result[result.scores >= options.threshold]
                if pictures is not None:
                    pictures.add(image.index, images.names[image.index], image.pixels, kept)
                found[image.index] = (image.pixels.shape[:2], coco_entries(kept, ids[image.index], detector))
            bar.update(len(batch))
    if not found:
        reasons = "".join(f"\n  {reason}" for reason in list(unreadable.values())[:MAX_NAMED])
        raise DataError(f"none of the {len(images.names)} images could be read:{reasons}")
    _write(out, detector, images, found)
    if pictures is not None:
        pictures.write_sheet(out / SHEET)
    return Outcome(
        output_dir=out,
        num_images=len(images.names),
        num_detections=sum(len(entries) for _, entries in found.values()),
        unreadable=unreadable,
        network_seconds=in_network / len(found),
        seconds=(time.perf_counter() - start) / len(found),
    )


def read_ahead(
    detector: TrainedDetector, images: ImageList, unreadable: dict[str, str], *, count: int
) -> Iterator[ReadImage]:
    """The images in order, read and resized by a thread that is `count` of them ahead. unreadable: is given name -> reason."""
    mapper = SharedReaderMapper(detector.config, is_train=False)

    def read(index: int) -> ReadImage | str:
        try:
            pixels = read_image(images.root / images.names[index])
        except DataError as error:
            return str(error)
        return ReadImage(index, pixels, mapper.network_input(pixels)[0])

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[int, Future[ReadImage | str]]] = deque()
        try:
            for index in range(len(images.names)):
                waiting.append((index, pool.submit(read, index)))
                while len(waiting) > count or (waiting and index == len(images.names) - 1):
                    number, future = waiting.popleft()
                    got = future.result()
                    if isinstance(got, str):
                        unreadable[images.names[number]] = got
                    else:
                        yield got
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def batches(images: Iterator[ReadImage], size: int) -> Iterator[list[ReadImage]]:
    """Up to `size` images whose tensors have one shape, looked for among LOOK_AHEAD times as many."""
    by_shape: dict[tuple[int, ...], list[ReadImage]] = {}
    for image in images:
        group = by_shape.setdefault(tuple(image.tensor.shape), [])
        group.append(image)
        if len(group) == size:
            yield by_shape.pop(tuple(image.tensor.shape))
        elif sum(map(len, by_shape.values())) > LOOK_AHEAD * size:
            yield by_shape.pop(max(by_shape, key=lambda shape: len(by_shape[shape])))
    yield from by_shape.values()


@torch.no_grad()
def infer(detector: TrainedDetector, batch: Sequence[ReadImage]) -> list[Instances]:
    """What the detector returns for each image, in pixels of the image, on the CPU."""
    outputs = detector.model([image.example for image in batch])
    return [output["instances"].to("cpu") for output in outputs]


def coco_entries(found: Instances, image_id: int, detector: TrainedDetector) -> list[dict[str, Any]]:
    """The entries of a COCO results file, unrounded; bbox is x, y, width, height."""
    if found.has("pred_keypoints"):
        found = found[:]  # Detectron2 moves keypoints to the pixels' indices in place
        found.pred_keypoints = found.pred_keypoints.clone()
    entries: list[dict[str, Any]] = instances_to_coco_json(found, image_id)
    for entry in entries:
        entry["category_id"] = detector.category_ids[entry["category_id"]]
    return entries


def _write(
    out: Path,
    detector: TrainedDetector,
    images: ImageList,
    found: dict[int, tuple[tuple[int, int], list[dict[str, Any]]]],
) -> None:
    """DATA_SET and RESULTS, in the order of the list."""
    ids, order = image_ids(images.names), sorted(found)
    listed = [
        {"id": ids[index], "file_name": images.names[index], "width": found[index][0][1], "height": found[index][0][0]}
        for index in order
    ]
    results = [entry for index in order for entry in found[index][1]]
    annotations = [
        {"id": number, "area": _area(entry), "iscrowd": 0, **entry, **_visible(entry)}
        for number, entry in enumerate(results, start=1)
    ]
    categories = [
        {"id": number, "name": name} for number, name in zip(detector.category_ids, detector.class_names, strict=True)
    ]
    info = {"description": "predictions, not labels", "image_dir": str(images.root), "detector": detector.describe()}
    data_set = {"info": info, "licenses": [], "images": listed, "annotations": annotations, "categories": categories}
    _write_compact(out / DATA_SET, data_set)
    _write_compact(out / RESULTS, results)


def _write_compact(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, allow_nan=False) + "\n")


def _area(entry: dict[str, Any]) -> float:
    """Pixels: of the mask, else of the box."""
    if "segmentation" in entry:
        return float(mask_codes.area({**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}))
    return float(entry["bbox"][2] * entry["bbox"][3])


def _visible(entry: dict[str, Any]) -> dict[str, int]:
    return {"num_keypoints": len(entry["keypoints"]) // 3} if "keypoints" in entry else {}
