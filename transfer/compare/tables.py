"""The report's tables and sentences as plain values, shared by the HTML page and the Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.base.figures import Spread, spread
from transfer.compare.bootstrap import ImageBootstrap
from transfer.compare.comparisons import Comparison, compared_with
from transfer.compare.experiments import ONE_SEED, Experiment, metric_label
from transfer.compare.headline import NO_SEED
from transfer.compare.published import PublishedTable, published_for, why_not_beside
from transfer.compare.results import protocol_of
from transfer.compare.statistics import PairedDifference, spread_of_sources

UNVERIFIED_MARK = "\u2020"
UNVERIFIED_NOTE = f"{UNVERIFIED_MARK} UNVERIFIED: recalled from the paper, not seen at its source."


@dataclass(frozen=True)
class Table:
    """Text cells under column names; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def format_spread(value: Spread | None, digits: int = 1) -> str:
    """ "36.2 ± 0.4", "36.2" for one seed, "n/a" for none."""
    return "n/a" if value is None else value.cell(digits)


def format_difference(value: PairedDifference | None, digits: int = 1) -> tuple[str, str, str, str]:
    """Mean difference, n, interval and verdict, as cells."""
    if value is None:
        return ("n/a", "0", "n/a", NO_SEED)
    n = str(value.n) if value.unit == "seed" else f"{value.n} x {value.num_seeds}"
    return (f"{value.mean:+.{digits}f}", n, _interval(value, digits), value.verdict)


def _interval(value: PairedDifference, digits: int) -> str:
    if value.half_width is None:
        return "n/a (one seed)" if value.n == 1 else "n/a (all seeds differ by the same)"
    return f"{value.mean - value.half_width:+.{digits}f} to {value.mean + value.half_width:+.{digits}f}"


def format_images(value: ImageBootstrap | None, digits: int = 1) -> str:
    """Interval over the test images, as a cell."""
    if value is None:
        return "n/a"
    return f"{value.mean - value.half_width:+.{digits}f} to {value.mean + value.half_width:+.{digits}f}"


def own_tables(experiment: Experiment) -> tuple[Table, ...]:
    """The figures by initialisation, the spread of both sources, and the paired difference to the baseline where there are."""
    means = Table(
        MEANS_TITLE.get(experiment.kind, "Figures by initialisation"),
        ("initialisation", "n", *_columns(experiment)),
        tuple(_mean_rows(experiment)),
        (_unit(experiment), *_what_stands_behind(experiment)),
    )
    sources = _sources_table(experiment)
    tables = (means, sources) if sources else (means,)
    return (*tables, _difference_table(experiment)) if experiment.others else tables


def _difference_table(experiment: Experiment) -> Table:
    assert experiment.baseline is not None
    digits = experiment.digits
    cells, found = [], []
    for metric in experiment.metrics:
        for one in compared_with(experiment, experiment.baseline, metric):
            found.append(one)
            test = one.difference.test if one.difference else None
            p = "n/a" if test is None or one.holm is None else f"{test.cell()}; {one.holm:.3g}"
            images = format_images(one.images, digits)
            cells.append((one.row, metric_label(metric), *format_difference(one.difference, digits), p, images))
    order = {row: place for place, row in enumerate(experiment.others)}
    cells.sort(key=lambda cell: order[cell[0]])
    k = len(experiment.others)
    level = next((one.difference.level for one in found if one.difference), 0.95)
    columns = (
        "initialisation", "metric", "mean difference", "n", f"{100 * level:.4g} % interval", "verdict",
        "exact p; Holm's", "over test images",
    )  # fmt: skip
    return Table(f"Difference to {experiment.baseline}", columns, tuple(cells), tuple(_rules(found, k, level)))


def _rules(found: Sequence[Comparison], k: int, level: float) -> list[str]:
    """What the columns of differences are."""
    together = "" if k == 1 else f", 95 % for the {k} comparisons of a metric together ({100 * level:.4g} % each)"
    known = [one.difference for one in found if one.difference]
    notes = ["Differences are taken seed by seed, over the n seeds that both have; the verdict is that of the interval, "
             f"Student's t for pairs{together}."]  # fmt: skip
    if any(one.unit == "pre-training" for one in known):
        notes[0] = (
            "Differences are taken by pre-training and seed; n = pre-trainings x seeds. The pre-training is the unit, within "
            f"which the seeds of fine-tuning are averaged. The verdict is that of the interval, Student's t with both sources of spread{together}."
        )
    if any(one.test for one in known):
        notes.append(
            "Exact p: two-sided sign flips of the differences, with the smallest p that so many can have (2 / 2^n: five seeds "
            "cannot go below 0.0625); Holm's: the same adjusted for the rows of a metric."
        )
    if any(one.images for one in found):
        images = next(one.images for one in found if one.images)
        notes.append(
            f"Over test images: how far another {images.n:,} test images of the kind would move the mean difference of these "
            "very runs (paired bootstrap, 1,000 resamples); it knows nothing of seeds, as the interval before it knows nothing "
            "of images. It takes the images as independent, which frames of one video are not."
        )
    return notes


def _what_stands_behind(experiment: Experiment) -> list[str]:
    """Rows whose spread is less than it looks."""
    behind = {row: experiment.behind(row) for row in experiment.rows}
    notes = []
    single = [row for row, one in behind.items() if one.num_seeds == 1 and one.num_pretrainings < 2]
    if single:
        notes.append(f"One seed: {', '.join(single)}. No spread and no interval over seeds.")
    once = [row for row, one in behind.items() if one.num_pretrainings == 1 and one.num_seeds > 1]
    if once and experiment.kind in ("detection", "readout"):
        notes.append(
            f"One pre-training stands behind {', '.join(once)}: deviation and intervals are of fine-tuning alone, and another "
            "pre-training of the same kind may lie outside them."
        )
    if any(one.num_pretrainings > 1 for one in behind.values()):
        notes.append("n = pre-trainings x seeds of fine-tuning; mean and deviation are over the pre-trainings' means.")
    return notes


def _sources_table(experiment: Experiment) -> Table | None:
    """Standard deviations between pre-trainings and between the seeds of one, for rows with several of both."""
    cells = []
    for row in experiment.rows:
        for metric in experiment.metrics:
            grid = _complete_grid(experiment, row, metric)
            if grid is not None:
                between, within = spread_of_sources(grid)
                shape = f"{grid.shape[0]} x {grid.shape[1]}"
                texts = (f"{value:.{experiment.digits}f}" for value in (between, within))
                cells.append((row, metric_label(metric), shape, *texts))
    columns = ("initialisation", "metric", "n", "between pre-trainings", "between seeds of one")
    note = (
        "Standard deviations of a single run's figure, by the random-effects analysis of variance; the first is 0 where the "
        "means of the pre-trainings differ by no more than their seeds explain."
    )
    return Table("Sources of spread", columns, tuple(cells), (note,)) if cells else None


def _complete_grid(experiment: Experiment, row: str, metric: str) -> np.ndarray | None:
    """(P, S) figures of the seeds that all pre-trainings of a row have; None for fewer than two of either."""
    cells = experiment.cells(row, metric)
    by_pretraining: dict[int | None, set[int]] = {}
    for pretraining, seed in cells:
        by_pretraining.setdefault(pretraining, set()).add(seed)
    seeds = sorted(set.intersection(*by_pretraining.values())) if by_pretraining else []
    if len(by_pretraining) < 2 or len(seeds) < 2:
        return None
    return np.array([[cells[pretraining, seed] for seed in seeds] for pretraining in by_pretraining])


MEANS_TITLE = {"detection": "AP by initialisation", "readout": "Readout by initialisation"}


def _unit(experiment: Experiment) -> str:
    if experiment.kind == "detection":
        return "Mean ± sample standard deviation over n seeds, in AP points (0 to 100)."
    if experiment.kind == "readout":
        return (
            "Validation accuracy of a linear classifier on the frozen encoder, %; mean ± sample standard deviation over n "
            f"seeds. Protocol: {protocol_of(experiment.first).get('name', 'not recorded')}."
        )
    return "Mean ± sample standard deviation over n seeds."


def _columns(experiment: Experiment) -> tuple[str, ...]:
    names = tuple(map(metric_label, experiment.metrics))
    if experiment.kind != "readout":
        return names
    k = min(5, len(experiment.first.record.class_names) or 5)
    return tuple(f"top-5 (here top-{k})" if name == "top-5" and k < 5 else name for name in names)


def _mean_rows(experiment: Experiment) -> list[tuple[str, ...]]:
    """(row, n, mean ± deviation of every metric)."""
    cells = []
    for row in experiment.rows:
        spreads = [spread(experiment.units(row, metric)) for metric in experiment.metrics]
        counts = {value.n for value in spreads if value is not None} or {0}
        behind = experiment.behind(row)
        n = f"{min(counts)}-{max(counts)}" if len(counts) > 1 else behind.cell() if counts != {0} else "0"
        cells.append((row, n, *(format_spread(value, experiment.digits) for value in spreads)))
    return cells


def published_table(experiment: Experiment) -> Table | None:
    """Published figures above ours, where schedule, batch and data are those of the publication; else None."""
    published = published_for(experiment)
    if published is None or not experiment.metrics or why_not_beside(published, experiment):
        return None
    return _published_table(published, experiment)


def published_note(experiment: Experiment) -> str:
    """Why the published figures of this configuration do not stand beside ours; "" where they do or there are none."""
    published = published_for(experiment)
    reasons = why_not_beside(published, experiment) if published else ()
    return (
        f"Published figures ({published.title}) are not shown: {'; '.join(reasons)}." if published and reasons else ""
    )


def _published_table(published: PublishedTable, experiment: Experiment) -> Table:
    cells = []
    for name, figures in published.rows.items():
        shown = [figures.get(metric) for metric in experiment.metrics]
        if not any(shown):
            continue
        texts = ["" if f is None else f"{f.value:.1f}{'' if f.verified else UNVERIFIED_MARK}" for f in shown]
        sources = dict.fromkeys(f.source for f in shown if f is not None)
        cells.append((name, *texts, "; ".join(sources)))
    for row, n, *means in _mean_rows(experiment):
        cells.append((f"ours: {row} (n = {n.removesuffix(ONE_SEED)})", *means, "this report"))
    marked = any(UNVERIFIED_MARK in cell for row in cells for cell in row)
    notes = [*([published.note] if published.note else []), *([UNVERIFIED_NOTE] if marked else [])]
    columns = ("initialisation", *map(metric_label, experiment.metrics), "source")
    return Table(f"Published: {published.title}", columns, tuple(cells), tuple(notes))
