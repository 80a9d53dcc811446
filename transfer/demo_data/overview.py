"""Contact sheet of the demo data: rows of object-centred images, one class a row, and scenes with masks and boxes."""

from __future__ import annotations

import cv2
import numpy as np

from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.scenes import render_object_image, render_scene


def draw_overview(config: SyntheticConfig, *, columns: int = 12, num_scenes: int = 12) -> np.ndarray:
    """One row of `columns` object-centred images a class, then `num_scenes` training scenes, each beside its annotation."""
    rows = []
    for class_index in range(len(CLASS_NAMES)):
        images = [
            render_object_image(config, config.seed, class_index + len(CLASS_NAMES) * k)[0] for k in range(columns)
        ]
        rows.append(np.hstack(images))
    width = rows[0].shape[1]
    scenes = [annotated_scene(config, index) for index in range(num_scenes)]
    per_row = max(width // scenes[0].shape[1], 1) if scenes else 1
    for start in range(0, len(scenes), per_row):
        rows.append(np.hstack(scenes[start : start + per_row]))
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def annotated_scene(config: SyntheticConfig, index: int) -> np.ndarray:
    """Training scene `index` (left) and the same with tinted visible masks, boxes and class names (right)."""
    image, objects = render_scene(config, config.seed, index)
    marked = image.copy()
    for number, thing in enumerate(objects):
        hue = np.array([[[number * 180 // max(len(objects), 1), 220, 255]]], np.uint8)
        tint = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
        marked[thing.mask] = (0.55 * marked[thing.mask] + 0.45 * tint).astype(np.uint8)
        left, top, right, bottom = thing.box
        colour = tuple(float(v) for v in tint)
        cv2.rectangle(marked, (left, top), (right - 1, bottom - 1), colour, 1)
        name = CLASS_NAMES[thing.class_index]
        cv2.putText(marked, name, (left + 1, max(top - 2, 8)), cv2.FONT_HERSHEY_SIMPLEX, 0.32, colour, 1, cv2.LINE_AA)
    return np.hstack([image, marked])
