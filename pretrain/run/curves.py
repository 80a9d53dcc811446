"""curves.png of a run: loss, accuracy, kNN probe, effective rank and spread over epochs, each with what bounds or judges it.

In: the entries of its log. Out: a PNG. A run of fewer than MIN_ENTRIES entries has no curve to show.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.run.representation import information_ceiling

MIN_ENTRIES = 8
PANEL_INCHES = (3.7, 2.5)
SMOOTHED = 40  # points that a curve of many entries is averaged to; the entries themselves stay, pale

Entry = Mapping[str, float]


@dataclass(frozen=True)
class Panel:
    """title. curves: name in the log -> label. limits: (value, label) of lines across. percent: of a share."""

    title: str
    curves: Mapping[str, str]
    limits: tuple[tuple[float, str], ...] = ()
    band: tuple[float, float, str] | None = None
    percent: bool = False


def draw_curves(
    folder: Path, *, num_negatives: int, feature_dim: int, chance: float | None = None, asked: int = 0, title: str = ""
) -> bool:
    """Write `folder`/curves.png from `folder`/log.jsonl; False where there is too little to draw. Raises OSError.

    num_negatives, feature_dim: K and D. chance: of the kNN probe, percent. asked: images that it asks about.
    """
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    if len(entries) < MIN_ENTRIES:
        return False
    guess, uniform = information_ceiling(num_negatives), 1 / math.sqrt(feature_dim)
    panels = [
        Panel(
            "loss, nats",
            {"loss": "loss", "loss_instance": "images", "loss_jigsaw": "jigsaw"},
            ((guess, f"uniform guess, ln(K + 1) = {guess:.2f}"),),
        ),
        Panel("contrastive accuracy, %", {"accuracy": "images", "accuracy_jigsaw": "jigsaw"}, percent=True),
        Panel(
            "information of two views, nats",
            {"information_bound": "InfoNCE"},
            ((guess, f"its ceiling, ln(K + 1) = {guess:.2f}"),),
        ),
        _knn_panel(entries, chance, asked),
        Panel("effective rank", {"effective_rank": "features", "effective_rank_embedding": "embeddings"}),
        Panel(
            "spread",
            {"key_std": "keys, in training", "embedding_std": "embeddings, in evaluation"},
            ((uniform, f"uniform, 1/sqrt(D) = {uniform:.3f}"), (0.0, "one point for all images")),
        ),
    ]
    _draw(folder / "curves.png", [panel for panel in panels if _found(panel, entries)], entries, title)
    return True


def _knn_panel(entries: Sequence[Entry], chance: float | None, asked: int) -> Panel:
    """With what random weights reach, and two standard errors around it: of few images a curve may rise by luck."""
    start = next((entry["knn"] for entry in entries if entry["step"] == 0 and "knn" in entry), None)
    limits, band = [], None
    if start is not None:
        limits.append((start, f"random weights, {start:.1f} %"))
        if asked:
            error = 2 * math.sqrt(max(start * (100 - start), 100) / asked)
            band = (max(0.0, start - error), min(100.0, start + error), "two standard errors")
    if chance is not None:
        limits.append((chance, f"chance, {chance:.1f} %"))
    title = "kNN probe, top-1 %" + (f" of {asked} images" if asked else "")
    return Panel(title, {"knn": "kNN"}, tuple(limits), band=band)


def _found(panel: Panel, entries: Sequence[Entry]) -> list[str]:
    names = [name for name in panel.curves if any(name in entry for entry in entries)]
    return names[1:] if names[:2] == ["loss", "loss_instance"] and len(names) == 2 else names  # equal without jigsaw


def _draw(path: Path, panels: Sequence[Panel], entries: Sequence[Entry], title: str) -> None:
    from matplotlib.figure import Figure  # slow to import, and a run draws when it ends

    from pretrain.base.plot_style import COLOURS, QUIET, plot_style, save_figure

    with plot_style():
        columns = min(3, len(panels))
        lines = -(-len(panels) // columns)
        size = (columns * PANEL_INCHES[0], lines * PANEL_INCHES[1] + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        for position, panel in enumerate(panels, 1):
            axes = figure.add_subplot(lines, columns, position)
            scale = 100 if panel.percent else 1
            names = _found(panel, entries)
            for number, name in enumerate(names):
                points = [(entry["epoch"], scale * entry[name]) for entry in entries if name in entry]
                colour, many = COLOURS[number], len(points) > 2 * SMOOTHED
                label = panel.curves[name] if len(names) > 1 else None
                marker = "o" if len(points) <= SMOOTHED // 2 else ""
                if many:
                    axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, linewidth=0.6)
                drawn = _averaged(points) if many else points
                axes.plot(*zip(*drawn, strict=True), color=colour, label=label, marker=marker, markersize=3)
            if panel.band is not None:
                axes.axhspan(*panel.band[:2], color=QUIET, alpha=0.15, linewidth=0, label=panel.band[2])
            for style, (value, label) in zip(("--", ":"), panel.limits, strict=False):
                axes.axhline(value, color=QUIET, linestyle=style, linewidth=1.2, label=label)
            axes.set_title(panel.title)
            axes.set_xlabel("epoch")
            low, high = axes.get_ylim()
            handles = axes.get_legend_handles_labels()[1]
            if handles:
                axes.set_ylim(low, high + 0.17 * len(handles) * (high - low))  # room for the legend above the curves
                axes.legend(loc="upper left", fontsize=7.5)
        if title:
            figure.suptitle(title, fontsize=10)
        save_figure(path, figure)


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of SMOOTHED parts of about equal length."""
    edges = [round(number * len(points) / SMOOTHED) for number in range(SMOOTHED + 1)]
    parts = [points[start:end] for start, end in itertools.pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
