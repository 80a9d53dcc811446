"""The report's tables and sentences as plain values, shared by the HTML page and the Markdown file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.base.figures import Spread, spread
from transfer.compare.experiments import Experiment, metric_label
from transfer.compare.published import PublishedTable, published_for, why_not_beside
from transfer.compare.results import protocol_of
from transfer.compare.statistics import PairedDifference, paired_difference

SPELT_OUT = 3  # rows against a baseline that a headline gives in full
NO_SEED = "no common seed"
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
    return (f"{value.mean:+.{digits}f}", str(value.n), _interval(value, digits), value.verdict)


def _interval(value: PairedDifference, digits: int) -> str:
    if value.half_width is None:
        return "n/a (one seed)" if value.n == 1 else "n/a (all seeds differ by the same)"
    return f"{value.mean - value.half_width:+.{digits}f} to {value.mean + value.half_width:+.{digits}f}"


def difference(experiment: Experiment, row: str, metric: str) -> PairedDifference | None:
    """A row minus the baseline, by the one rule; all rows of the experiment are the comparisons of one question."""
    assert experiment.baseline is not None
    return paired_difference(
        experiment.figures(row, metric),
        experiment.figures(experiment.baseline, metric),
        comparisons=len(experiment.others),
    )


def own_tables(experiment: Experiment) -> tuple[Table, ...]:
    """The figures by initialisation, and the paired difference to the baseline where there is one and another row."""
    means = Table(
        MEANS_TITLE.get(experiment.kind, "Figures by initialisation"),
        ("initialisation", "n", *_columns(experiment)),
        tuple(_mean_rows(experiment)),
        (_unit(experiment),),
    )
    if not experiment.others:
        return (means,)
    cells, level = [], 0.95
    for row in experiment.others:
        for metric in experiment.metrics:
            found = difference(experiment, row, metric)
            level = found.level if found else level
            cells.append((row, metric_label(metric), *format_difference(found, experiment.digits)))
    k = len(experiment.others)
    rule = "Differences are taken seed by seed, over the n seeds that both have; the interval is Student's t for pairs"
    rule += "." if k == 1 else f", 95 % for the {k} comparisons of a metric together ({100 * level:.4g} % each)."
    columns = ("initialisation", "metric", "mean difference", "n", f"{100 * level:.4g} % interval", "verdict")
    return (means, Table(f"Difference to {experiment.baseline}", columns, tuple(cells), (rule,)))


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
        spreads = [spread(list(experiment.figures(row, metric).values())) for metric in experiment.metrics]
        counts = {value.n for value in spreads if value is not None} or {0}
        n = str(counts.pop()) if len(counts) == 1 else f"{min(counts)}-{max(counts)}"
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
        cells.append((f"ours: {row} (n = {n})", *means, "this report"))
    marked = any(UNVERIFIED_MARK in cell for row in cells for cell in row)
    notes = [*([published.note] if published.note else []), *([UNVERIFIED_NOTE] if marked else [])]
    columns = ("initialisation", *map(metric_label, experiment.metrics), "source")
    return Table(f"Published: {published.title}", columns, tuple(cells), tuple(notes))


def headline(experiment: Experiment) -> str | None:
    """One sentence: the leading metric of every row, and what the rule says of each against the baseline.

    None without a baseline, a second row or any figure.
    """
    metric, baseline = experiment.leading_metric, experiment.baseline
    if not experiment.others or not metric or baseline is None:
        return None
    if len(experiment.others) > SPELT_OUT:
        return _headline_of_many(experiment, baseline)
    parts = []
    for row in experiment.rows:
        value = spread([figure for figure in experiment.figures(row, metric).values() if math.isfinite(figure)])
        if value is None:
            parts.append(f"{row} has none")
            continue
        text = f"{row} {format_spread(value, experiment.digits)} (n = {value.n}"
        if row != baseline:
            text += f", {_against(difference(experiment, row, metric), baseline, experiment.digits)}"
        parts.append(f"{text})")
    return f"{experiment.name} [{experiment.short}], {metric_label(metric)}: {'; '.join(parts)}."


def _headline_of_many(experiment: Experiment, baseline: str) -> str:
    """Rows by verdict, each with its mean difference; figures and intervals are in the tables below."""
    groups: dict[str, list[str]] = {}
    for row in experiment.others:
        found = difference(experiment, row, experiment.leading_metric)
        mean = "" if found is None else f" ({found.mean:+.{experiment.digits}f}, n = {found.n})"
        groups.setdefault(found.verdict if found else NO_SEED, []).append(row + mean)
    order = ("higher", "lower", "not told apart", "one seed", NO_SEED)
    parts = [f"{verdict}: {', '.join(groups[verdict])}" for verdict in order if verdict in groups]
    where = f"{experiment.name} [{experiment.short}], {metric_label(experiment.leading_metric)}"
    return f"{where}, {len(experiment.others)} rows against {baseline}. {'. '.join(map(_capital, parts))}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _against(value: PairedDifference | None, baseline: str, digits: int) -> str:
    if value is None:
        return f"no seed in common with {baseline}"
    mean = f"{value.mean:+.{digits}f}"
    if value.n == 1:
        return f"{mean} in one seed: whether it differs from {baseline} is not known"
    words = {"higher": f"higher than {baseline}", "lower": f"lower than {baseline}"}
    interval = "" if value.half_width is None else f", {100 * value.level:.4g} % interval {_interval(value, digits)}"
    return f"{mean}{interval}: {words.get(value.verdict, f'not told apart from {baseline}')}"
