"""The report's tables as plain values, shared by the HTML page and the Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.base.figures import Spread, spread
from transfer.compare.published import PublishedTable, published_detection, published_readout
from transfer.compare.results import DetectionRun, LinearRun
from transfer.compare.statistics import (
    BASELINE,
    Group,
    PairedDifference,
    Run,
    family_of,
    metric_label,
    paired_difference,
)

UNVERIFIED_MARK = "\u2020"
UNVERIFIED_NOTE = f"{UNVERIFIED_MARK} UNVERIFIED: recalled from the paper, not seen at its source."


@dataclass(frozen=True)
class Table:
    """Text cells under column names; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def format_spread(value: Spread | None) -> str:
    """ "36.2 ± 0.4", "36.2" for one seed, "n/a" for none."""
    return "n/a" if value is None else value.cell()


def format_difference(value: PairedDifference | None) -> tuple[str, str, str]:
    """Mean difference, seeds won, 95 % interval, as cells."""
    if value is None:
        return ("n/a", "n/a", "n/a")
    interval = "n/a (one seed)"
    if value.half_width is not None:
        interval = f"{value.mean - value.half_width:+.1f} to {value.mean + value.half_width:+.1f}"
    return (f"{value.mean:+.1f}", f"{value.wins}/{value.n}", interval)


def detection_tables(group: Group[DetectionRun]) -> tuple[Table, ...]:
    """AP by initialisation, and the paired difference to random where there is a random row."""
    columns = tuple(map(metric_label, group.metrics))
    notes = ["Mean ± sample standard deviation over n seeds, in AP points (0 to 100)."]
    return _own_tables(group, "AP by initialisation", columns, notes)


def published_detection_table(group: Group[DetectionRun]) -> Table | None:
    """Published figures above ours, where the configuration is a published one; None otherwise."""
    published = published_detection(group.first.config_file)
    if published is None or not group.metrics:
        return None
    notes, run = [], group.first
    if published.iterations != run.iterations:
        notes.append(
            f"NOT COMPARABLE as it stands: the published runs took {published.iterations:,} iterations of 16 images, "
            f"ours {run.iterations:,}."
        )
    if published.data != (run.train_data, run.test_data):
        notes.append(
            f"NOT COMPARABLE unless these are the same images: the published runs trained on {published.data[0]} and "
            f"tested on {published.data[1]}; ours trained on {run.train_data} ({run.num_train_images:,} images), "
            f"tested on {run.test_data}."
        )
    return _published_table(published, group, notes)


def readout_tables(group: Group[LinearRun]) -> tuple[Table, ...]:
    """Top-1 and top-5 by initialisation, and the paired difference to random."""
    run = group.first
    k = int(run.protocol.get("top5_k", min(5, len(run.classes))))
    notes = ["Validation accuracy of a linear classifier on the frozen encoder, %; mean ± sample standard deviation."]
    notes.append(f"Protocol: {run.protocol.get('name', 'not recorded')}.")
    columns = ("top-1", "top-5" if k == 5 else f"top-5 (here top-{k})")
    return _own_tables(group, "Readout by initialisation", columns, notes)


def published_readout_table(group: Group[LinearRun]) -> Table | None:
    """The same for a readout of a ResNet-50 on ImageNet's thousand classes."""
    published = published_readout(arch=group.first.arch, num_classes=len(group.first.classes))
    return _published_table(published, group, []) if published else None


def _own_tables(group: Group[Run], title: str, columns: tuple[str, ...], notes: Sequence[str]) -> tuple[Table, ...]:
    left_out = [
        f"{run.path} repeats a run with the same initialisation, seed and weights: left out." for run in group.repeated
    ]
    means = Table(title, ("initialisation", "n", *columns), tuple(_mean_rows(group)), (*notes, *left_out))
    others = [row for row in group.runs if row != BASELINE]
    if BASELINE not in group.runs or not others:
        return (means,)
    cells = []
    for row in others:
        for metric in group.metrics:
            difference = paired_difference(group.figures(row, metric), group.figures(BASELINE, metric))
            cells.append((row, metric_label(metric), *format_difference(difference)))
    differences = Table(
        f"Difference to {BASELINE}",
        ("initialisation", "metric", "mean difference", "seeds won", "95 % interval"),
        tuple(cells),
        ("Differences are taken seed by seed, over the seeds that both have; the interval is Student's t for pairs.",),
    )
    return (means, differences)


def _mean_rows(group: Group[Run]) -> list[tuple[str, ...]]:
    """(row, n, mean ± deviation of every metric)."""
    cells = []
    for row in group.runs:
        spreads = [spread(list(group.figures(row, metric).values())) for metric in group.metrics]
        counts = {value.n for value in spreads if value is not None} or {0}
        n = str(counts.pop()) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"
        cells.append((row, n, *map(format_spread, spreads)))
    return cells


def _published_table(published: PublishedTable, group: Group[Run], notes: Sequence[str]) -> Table:
    """The published figures above ours."""
    cells = []
    for name, figures in published.rows.items():
        shown = [figures.get(metric) for metric in group.metrics]
        if not any(shown):
            continue
        texts = ["" if f is None else f"{f.value:.1f}{'' if f.verified else UNVERIFIED_MARK}" for f in shown]
        sources = dict.fromkeys(f.source for f in shown if f is not None)
        cells.append((name, *texts, "; ".join(sources)))
    for row, n, *means in _mean_rows(group):
        cells.append((f"ours: {row} (n = {n})", *means, "this report"))
    marked = any(UNVERIFIED_MARK in cell for row in cells for cell in row)
    all_notes = [*([published.note] if published.note else []), *notes, *([UNVERIFIED_NOTE] if marked else [])]
    columns = ("initialisation", *map(metric_label, group.metrics), "source")
    return Table(f"Published: {published.title}", columns, tuple(cells), tuple(all_notes))


def detection_headline(group: Group[DetectionRun]) -> str | None:
    """One sentence: the leading metric of every row against random. None without a random row or a second row."""
    if BASELINE not in group.runs or len(group.runs) < 2:
        return None
    metric = group.leading_metric
    parts = []
    for row in group.runs:
        value = spread(list(group.figures(row, metric).values())) if metric else None
        if value is None:
            return None
        difference = paired_difference(group.figures(row, metric), group.figures(BASELINE, metric))
        won = f", above random in {difference.wins} of {difference.n} seeds" if row != BASELINE and difference else ""
        parts.append(f"{row} {format_spread(value)} (n = {value.n}{won})")
    return f"{family_of(group.first.config_file)}, {metric_label(metric)}: " + "; ".join(parts) + "."


def readout_headline(group: Group[LinearRun]) -> str | None:
    """One sentence: top-1 of every row. None without a random row or a second row."""
    if BASELINE not in group.runs or len(group.runs) < 2:
        return None
    return "Readout top-1: " + "; ".join(f"{row} {top1} % (n = {n})" for row, n, top1, _ in _mean_rows(group)) + "."
