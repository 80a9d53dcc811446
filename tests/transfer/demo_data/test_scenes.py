"""Whole images: purity, instances, masks and boxes."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.objects import Light, Sprite
from transfer.demo_data.scenes import SceneObject, clutter_sprite, render_object_image, render_scene

CONFIG = SyntheticConfig()


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, list[SceneObject]]]:
    """24 training scenes."""
    return [render_scene(CONFIG, 0, index) for index in range(24)]


def test_image_depends_on_seed_split_and_index_only() -> None:
    image, class_index = render_object_image(CONFIG, 0, 13)
    render_object_image(CONFIG, 0, 14)  # no state is left behind
    again, _ = render_object_image(CONFIG, 0, 13)
    assert class_index == 13 % len(CLASS_NAMES)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    assert (image == again).all()
    for other in (
        render_object_image(CONFIG, 1, 13),
        render_object_image(CONFIG, 0, 21),
        render_object_image(CONFIG, 0, 13, split="val"),
    ):
        assert (other[0] != image).mean() > 0.5


def test_image_size_is_a_parameter() -> None:
    assert render_object_image(SyntheticConfig(image_size=64), 0, 0)[0].shape == (64, 64, 3)


def test_masks_are_disjoint_and_their_extents_are_the_boxes(scenes: list[tuple[np.ndarray, list[SceneObject]]]) -> None:
    for image, objects in scenes:
        assert image.shape == (192, 192, 3)
        owners = np.sum([thing.mask for thing in objects], axis=0)
        assert owners.max() == 1
        for thing in objects:
            assert thing.mask.shape == (192, 192)
            left, top, right, bottom = thing.box
            rows, columns = np.nonzero(thing.mask)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_objects_keep_the_promised_visible_share(scenes: list[tuple[np.ndarray, list[SceneObject]]]) -> None:
    shares = [thing.visible for _, objects in scenes for thing in objects]
    assert min(shares) >= CONFIG.min_visible
    assert max(shares) <= 1
    assert np.mean(np.array(shares) < 0.95) > 0.1  # control: occlusion does happen


def test_scenes_hold_the_promised_number_of_objects_of_all_classes_and_sizes(
    scenes: list[tuple[np.ndarray, list[SceneObject]]],
) -> None:
    counts = [len(objects) for _, objects in scenes]
    assert min(counts) >= CONFIG.min_objects and max(counts) <= CONFIG.max_objects
    assert {thing.class_index for _, objects in scenes for thing in objects} == set(range(len(CLASS_NAMES)))
    sides = [
        max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) for _, objects in scenes for thing in objects
    ]
    assert min(sides) < 40 and 60 < max(sides) <= CONFIG.max_object + 2


def test_scenes_of_fewer_classes_show_no_other_one() -> None:
    few = SyntheticConfig(num_scene_classes=3, min_objects=4, max_objects=4)
    assert render_object_image(few, 0, 7)[1] == 7  # pre-training sees them all
    scenes = [render_scene(few, 0, index)[1] for index in range(8)]
    assert {thing.class_index for objects in scenes for thing in objects} == {0, 1, 2}
    assert few.scene_class_names == CLASS_NAMES[:3]


def test_scenes_hold_the_promised_amount_of_clutter(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def counted(rng: np.random.Generator, size: float, light: Light) -> Sprite:
        drawn.append(size)
        return clutter_sprite(rng, size, light)

    monkeypatch.setattr("transfer.demo_data.scenes.clutter_sprite", counted)
    for least, most in ((0, 0), (2, 2), (1, 3)):
        counts = set()
        for index in range(12):
            drawn.clear()
            render_scene(SyntheticConfig(min_clutter=least, max_clutter=most, scene_size=96), 0, index)
            counts.add(len(drawn))
        assert counts == set(range(least, most + 1))


def test_mask_outlines_lie_on_the_edges_of_the_picture(scenes: list[tuple[np.ndarray, list[SceneObject]]]) -> None:
    """Mean picture gradient along the outlines, against the same outlines moved aside (the control)."""

    def strength(shift: int) -> float:
        values = []
        for image, objects in scenes:
            grey = image.mean(2)
            edges = np.hypot(*np.gradient(grey))
            for thing in objects:
                mask = np.roll(thing.mask, shift, 1)
                outline = mask & ~(
                    np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
                )
                values.append(edges[outline].mean())
        return float(np.mean(values))

    on_outline = strength(0)
    assert all(on_outline > 1.25 * strength(shift) for shift in (-4, -2, 2, 4))


@pytest.mark.slow
def test_colour_says_little_of_the_class() -> None:
    """Nearest class mean on mean colours: chance is 12.5 %."""
    pairs = [render_object_image(CONFIG, 5, index) for index in range(240)]
    features = np.array([image.mean((0, 1)) for image, _ in pairs])
    labels = np.array([label for _, label in pairs])
    means = np.stack([features[:120][labels[:120] == c].mean(0) for c in range(8)])
    guess = ((features[120:, None] - means) ** 2).sum(2).argmin(1)
    assert (guess == labels[120:]).mean() < 0.32
