"""AP of resampled images: pycocotools' own answer on a list in which images really stand several times, and VOC's likewise."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.compare.matches import average_precision, coco_matches

NUM_IMAGES, NUM_CLASSES = 24, 3


def scene(rng, number, *, size=64):
    """A box in a size x size image as a COCO object or detection, with its mask."""
    w, h = rng.uniform(6, 30, 2)
    x, y = rng.uniform(0, size - w), rng.uniform(0, size - h)
    return outlined({"category_id": 1 + number % NUM_CLASSES, "bbox": [x, y, w, h]}, size)


def outlined(thing, size=64):
    x, y, w, h = thing["bbox"]
    pixels = np.zeros((size, size), dtype=np.uint8, order="F")
    pixels[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)] = 1
    return {**thing, "segmentation": masks.encode(pixels), "area": float(pixels.sum())}


def made(seed):
    """Ground truth with crowds and images and classes without objects, detections of which many have equal scores, in other images."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, NUM_IMAGES + 1):
        for number in range(rng.integers(0, 5)):
            thing = {**scene(rng, number), "image_id": image, "id": len(truth) + 1}
            truth.append({**thing, "iscrowd": int(rng.random() < 0.15)})
            if rng.random() < 0.7:
                near = outlined(
                    {**thing, "bbox": [v * f for v, f in zip(thing["bbox"], rng.normal(1, 0.06, 4), strict=True)]}
                )
                found.append({**near, "score": round(float(rng.beta(4, 2)), 1)})
        for number in range(rng.integers(0, 4)):
            found.append({**scene(rng, number), "image_id": image, "score": round(float(rng.beta(2, 4)), 1)})
    for image in range(1, NUM_IMAGES + 1):  # equal between images, never within one
        own = [d for d in found if d["image_id"] == image]
        for rank, detection in enumerate(own):
            detection["score"] = round(detection["score"] + 0.001 * rank, 3)
    keys = ("image_id", "category_id", "bbox", "segmentation", "score")
    images = [{"id": i, "width": 64, "height": 64} for i in range(1, NUM_IMAGES + 1)]
    categories = [{"id": k + 1, "name": str(k)} for k in range(NUM_CLASSES + 1)]  # one that nothing is of
    return {"images": images, "annotations": truth, "categories": categories}, [{k: d[k] for k in keys} for d in found]


def repeated(truth, found, weights):
    """Image i `weights[i]` times, under new numbers, with its objects and detections."""
    images, things, detections = [], [], []
    for image, count in zip(truth["images"], weights, strict=True):
        for k in range(count):
            number = image["id"] * 100 + k
            images.append({**image, "id": number})
            own = [thing for thing in truth["annotations"] if thing["image_id"] == image["id"]]
            things += [
                {**copy.deepcopy(one), "image_id": number, "id": len(things) + i + 1} for i, one in enumerate(own)
            ]
            detections += [{**d, "image_id": number} for d in found if d["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": things}, detections


def pycocotools_ap(truth, found, task):
    """(T,) AP in percent, as Detectron2 asks for it."""
    drop = {"segm": "bbox", "bbox": "segmentation"}[task]
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)
        api.createIndex()
        results = api.loadRes([{k: v for k, v in copy.deepcopy(d).items() if k != drop} for d in found])
        evaluation = COCOeval(api, results, task)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # T, R, K
    return np.array([100 * np.mean(of_one[of_one > -1]) for of_one in precision])


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_resampled_ap_is_pycocotools_on_images_that_really_stand_so_often(task, seed):
    truth, found = made(seed)
    matches = coco_matches(truth, found, task=task)
    rng = np.random.default_rng(seed)
    weights = np.concatenate(
        [np.ones((1, NUM_IMAGES), dtype=int), rng.multinomial(NUM_IMAGES, [1 / NUM_IMAGES] * NUM_IMAGES, size=4)]
    )
    ours = average_precision(matches, weights)
    expected = [pycocotools_ap(*repeated(truth, found, row), task) for row in weights]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12 * 100)
    assert np.ptp(ours[1:, 0]) > 1  # the draws differ
    # Control: the published fault, a set of images instead of a list.
    assert np.abs(average_precision(matches, np.minimum(weights[1:], 1)) - ours[1:]).max() > 0.5


def test_a_detector_that_found_nothing_has_zero_and_images_without_objects_have_none():
    truth, found = made(0)
    assert average_precision(coco_matches(truth, [], task="bbox"), np.ones((1, NUM_IMAGES), int)).max() == 0
    empty = [image["id"] not in {t["image_id"] for t in truth["annotations"]} for image in truth["images"]]
    assert np.isnan(average_precision(coco_matches(truth, found, task="bbox"), np.array([empty], int))).all()


def test_chunks_of_resamples_change_nothing(monkeypatch):
    matches = coco_matches(*made(1), task="bbox")
    weights = np.random.default_rng(0).multinomial(NUM_IMAGES, [1 / NUM_IMAGES] * NUM_IMAGES, size=50)
    whole = average_precision(matches, weights)
    monkeypatch.setattr("transfer.compare.matches.CHUNK", 70)
    np.testing.assert_array_equal(average_precision(matches, weights), whole)


def test_the_best_score_is_the_one_of_the_highest_f1_by_a_slow_reference():
    truth, found = made(2)
    matches = coco_matches(truth, found, task="bbox")
    objects = sum(int(one.num_objects.sum()) for one in matches.classes)

    def f1(score):
        kept = [one.score >= score for one in matches.classes]
        hits = sum(one.hit[0][k].sum() for one, k in zip(matches.classes, kept, strict=True))
        counted = sum(one.counted[0][k].sum() for one, k in zip(matches.classes, kept, strict=True))
        return 2 * hits / (counted + objects)

    assert f1(matches.best_score()) == max(f1(score) for one in matches.classes for score in one.score)
    assert coco_matches(truth, [], task="bbox").best_score() is None
