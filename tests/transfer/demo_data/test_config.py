"""Configuration of the demo data."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.base.errors import ConfigError
from tests.cases import each
from transfer.demo_data.config import SyntheticConfig


@each(
    "values",
    [
        {"seed": -1},
        {"num_scene_classes": 0},
        {"num_scene_classes": 9},
        {"num_unlabelled": -1},
        {"image_size": 8},
        {"scene_size": 32},
        {"min_cover": 0.9, "max_cover": 0.5},
        {"min_object": 90, "max_object": 80},
        {"min_objects": 4, "max_objects": 3},
        {"min_clutter": 4, "max_clutter": 3},
        {"min_visible": 0.1},
        {"min_visible": float("nan")},
        {"max_object": 193},
        {"num_test_scenes": 1_000_000},
        {"jpeg_quality": 101},
    ],
)
def test_impossible_values_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        SyntheticConfig(**values)
