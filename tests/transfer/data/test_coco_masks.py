"""Run lengths are decoded as pycocotools encodes them. What a file may hold instead of a mask: test_coco.py."""

from __future__ import annotations

import numpy as np
import pycocotools.mask

from transfer.data.coco_masks import decode_counts


def test_decoded_run_lengths_equal_pycocotools_on_random_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(1, 60, 2)
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        text = pycocotools.mask.encode(np.asfortranarray(mask))["counts"].decode()
        runs = decode_counts(text)
        values = np.repeat(np.arange(len(runs)) % 2, runs)
        assert np.array_equal(values.reshape(width, height).T, mask)
