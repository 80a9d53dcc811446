"""The report's tables as plain values, shared by the HTML page and the Markdown file.

In: groups of finished runs. Out: `Table` values (text cells).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transfer.compare.groups import Comparison, ReadoutGroup, metric_label
from transfer.compare.published import PublishedTable, family_of, published_detection, published_readout
from transfer.compare.statistics import PairedDifference, Spread, paired_difference, spread

BASELINE = "random"
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
    if value is None:
        return "n/a"
    return f"{value.mean:.1f}" if value.std is None else f"{value.mean:.1f} ± {value.std:.1f}"


def format_difference(value: PairedDifference | None) -> tuple[str, str, str]:
    """Mean difference, seeds won, 95 % interval, as cells."""
    if value is None:
        return ("n/a", "n/a", "n/a")
    interval = "n/a (one seed)"
    if value.half_width is not None:
        interval = f"{value.mean - value.half_width:+.1f} to {value.mean + value.half_width:+.1f}"
    return (f"{value.mean:+.1f}", f"{value.wins}/{value.n}", interval)


Figures = Callable[[str, str], Mapping[int, float]]


def _mean_rows(rows: Sequence[str], metrics: Sequence[str], figures: Figures) -> list[tuple[str, ...]]:
    cells = []
    for row in rows:
        spreads = [spread(list(figures(row, metric).values())) for metric in metrics]
        counts = {value.n for value in spreads if value is not None} or {0}
        n = str(counts.pop()) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"
        cells.append((row, n, *map(format_spread, spreads)))
    return cells


def _difference_table(title: str, rows: Sequence[str], metrics: Sequence[str], figures: Figures) -> Table | None:
    others = [row for row in rows if row != BASELINE]
    if BASELINE not in rows or not others:
        return None
    cells = []
    for row in others:
        for metric in metrics:
            difference = paired_difference(figures(row, metric), figures(BASELINE, metric))
            cells.append((row, metric_label(metric), *format_difference(difference)))
    return Table(
        title,
        ("initialisation", "metric", "mean difference", "seeds won", "95 % interval"),
        tuple(cells),
        ("Differences are taken seed by seed, over the seeds that both have; the interval is Student's t for pairs.",),
    )


def detection_tables(group: Comparison) -> tuple[Table, ...]:
    """AP by initialisation, and the paired difference to random where there is a random row."""
    rows = list(group.runs)
    columns = ("initialisation", "n", *map(metric_label, group.metrics))
    notes = ["Mean ± sample standard deviation over n seeds, in AP points (0 to 100)."]
    notes += [
        f"{run.path} repeats a run with the same initialisation, seed and weights: left out." for run in group.repeated
    ]
    tables = [
        Table("AP by initialisation", columns, tuple(_mean_rows(rows, group.metrics, group.figures)), tuple(notes))
    ]
    difference = _difference_table(f"Difference to {BASELINE}", rows, group.metrics, group.figures)
    return (*tables, difference) if difference else tuple(tables)


def published_comparison(group: Comparison) -> Table | None:
    """Published figures above ours, where the configuration is a published one; None otherwise."""
    published = published_detection(group.config_file)
    if published is None or not group.metrics:
        return None
    cells = _published_rows(published, group.metrics)
    for row in _mean_rows(list(group.runs), group.metrics, group.figures):
        cells.append((f"ours: {row[0]} (n = {row[1]})", *row[2:], "this report"))
    notes = [published.note] if published.note else []
    if published.iterations != group.iterations:
        notes.append(
            f"NOT COMPARABLE as it stands: the published runs took {published.iterations:,} iterations of 16 images, "
            f"ours {group.iterations:,}."
        )
    if published.data != (group.train_data, group.test_data):
        notes.append(
            f"NOT COMPARABLE unless these are the same images: the published runs trained on {published.data[0]} and "
            f"tested on {published.data[1]}; ours trained on {group.train_data} ({group.num_train_images:,} images), "
            f"tested on {group.test_data}."
        )
    return _published_table(published, group.metrics, cells, notes)


def published_readout_comparison(group: ReadoutGroup) -> Table | None:
    """The same for a readout of a ResNet-50 on ImageNet's thousand classes."""
    first = next(iter(next(iter(group.runs.values())).values()))
    published = published_readout(arch=first.arch, num_classes=len(first.classes))
    if published is None:
        return None
    metrics = ("top1", "top5")
    cells = _published_rows(published, metrics)
    for row in _mean_rows(list(group.runs), metrics, group.figures):
        cells.append((f"ours: {row[0]} (n = {row[1]})", *row[2:], "this report"))
    return _published_table(published, metrics, cells, [published.note])


def _published_rows(published: PublishedTable, metrics: Sequence[str]) -> list[tuple[str, ...]]:
    cells = []
    for row in published.rows:
        shown = [row.figures.get(metric) for metric in metrics]
        if not any(shown):
            continue
        texts = ["" if f is None else f"{f.value:.1f}{'' if f.verified else UNVERIFIED_MARK}" for f in shown]
        sources = dict.fromkeys(f.source for f in shown if f is not None)
        cells.append((row.name, *texts, "; ".join(sources)))
    return cells


def _published_table(
    published: PublishedTable, metrics: Sequence[str], cells: Sequence[tuple[str, ...]], notes: Sequence[str]
) -> Table:
    columns = ("initialisation", *map(metric_label, metrics), "source")
    if any(UNVERIFIED_MARK in cell for row in cells for cell in row):
        notes = [*notes, UNVERIFIED_NOTE]
    return Table(f"Published: {published.title}", columns, tuple(cells), tuple(notes))


def readout_tables(group: ReadoutGroup) -> tuple[Table, ...]:
    """Top-1 and top-5 by initialisation, and the paired difference to random."""
    rows, metrics = list(group.runs), ("top1", "top5")
    first = next(iter(next(iter(group.runs.values())).values()))
    k = int(first.protocol.get("top5_k", min(5, len(first.classes))))
    columns = ("initialisation", "n", "top-1", "top-5" if k == 5 else f"top-5 (here top-{k})")
    notes = ["Validation accuracy of a linear classifier on the frozen encoder, %; mean ± sample standard deviation."]
    notes.append(f"Protocol: {first.protocol.get('name', 'not said')}.")
    notes += [
        f"{run.path} repeats a run with the same initialisation, seed and weights: left out." for run in group.repeated
    ]
    tables = [
        Table("Readout by initialisation", columns, tuple(_mean_rows(rows, metrics, group.figures)), tuple(notes))
    ]
    difference = _difference_table(f"Difference to {BASELINE}", rows, metrics, group.figures)
    return (*tables, difference) if difference else tuple(tables)


def headline(group: Comparison) -> str | None:
    """One sentence: the first metric of every row against random. None without a random row or a second row."""
    if BASELINE not in group.runs or len(group.runs) < 2:
        return None
    metric = "bbox/AP50" if "bbox/AP50" in group.metrics else (group.metrics or ("",))[0]
    parts = []
    for row in group.runs:
        value = spread(list(group.figures(row, metric).values())) if metric else None
        if value is None:
            return None
        difference = paired_difference(group.figures(row, metric), group.figures(BASELINE, metric))
        won = f", above random in {difference.wins} of {difference.n} seeds" if row != BASELINE and difference else ""
        parts.append(f"{row} {format_spread(value)} (n = {value.n}{won})")
    return f"{family_of(group.config_file)}, {metric_label(metric)}: " + "; ".join(parts) + "."
