"""One look for every plot: matplotlib's settings and colours, and a figure saved as PNG. Needs no display."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pretrain.base.atomic import atomic_file

# Lines are distinguished by these, in order.
BLUE, BROWN, GREEN, PURPLE, RED, TEAL, GREY = (
    "#1d4ed8", "#b45309", "#047857", "#7c3aed", "#be123c", "#0e7490", "#6b7280",
)  # fmt: skip
COLOURS = (BLUE, BROWN, GREEN, PURPLE, RED, TEAL)
QUIET = "#9ca3af"  # limits, error bars, chance
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "infomin-transfer",  # the same figure gives the same SVG, byte for byte
    "svg.fonttype": "path",
}


def plot_style() -> AbstractContextManager[None]:
    """`with plot_style():` around everything that makes a figure."""
    return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]


def save_figure(path: Path, figure: Figure, *, dpi: int = 120) -> None:
    """As PNG, atomically."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
