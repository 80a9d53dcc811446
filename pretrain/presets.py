"""Presets: what a method's name stands for, as data. Any explicit value of a configuration wins over its preset.

Source: infomin.md 1.1 (the reference's table, where the preset silently overrode explicit flags instead).
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # InfoMin: two strong RGB views, jigsaw branch, queue, MLP head; T is 0.15, not MoCo v2's 0.2.
    "infomin": {
        "method": {"name": "infomin", "head": "mlp", "temperature": 0.15, "jigsaw": True},
        "views": {"recipe": "infomin"},
    },
    "moco_v2": {
        "method": {"name": "moco_v2", "head": "mlp", "temperature": 0.2, "jigsaw": False},
        "views": {"recipe": "moco_v2"},
    },
}
