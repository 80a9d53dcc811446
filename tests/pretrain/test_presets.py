"""The presets are the reference's table."""

from __future__ import annotations

from pretrain.presets import PRESETS
from pretrain.views.recipes import RECIPES


def test_infomin_and_moco_v2_are_the_reference_s_rows():
    # infomin.md 1.1: jigsaw, aug, head, temperature
    rows = {
        name: (v["method"]["jigsaw"], v["views"]["recipe"], v["method"]["head"], v["method"]["temperature"])
        for name, v in PRESETS.items()
    }
    assert rows == {"infomin": (True, "infomin", "mlp", 0.15), "moco_v2": (False, "moco_v2", "mlp", 0.2)}


def test_every_preset_names_a_recipe_that_exists():
    assert all(preset["views"]["recipe"] in RECIPES for preset in PRESETS.values())
