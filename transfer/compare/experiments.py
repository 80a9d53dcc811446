"""Which finished runs are one experiment, and its rows: one an initialisation, one figure a pre-training and seed.

Two runs are one experiment if and only if the hashes of their records agree. Within one, runs share a row only if they have
one label and start from the same weights, or from weights of the same pre-training. What differs between near experiments
(same kind, same data) is said key by key, and so is a seed that was measured more than once.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.base.errors import ConfigError, did_you_mean
from pretrain.base.record import what_differs
from transfer.compare.results import Run, key_name, name_of, num_images, short_hash, titles
from transfer.compare.seen_input import input_notes
from transfer.compare.statistics import Cells

# Orders of columns as the literature prints them.
VOC_ORDER = ("AP50", "AP", "AP75")
COCO_ORDER = ("AP", "AP50", "AP75")
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
BASELINE = "random"
ROW_ORDER = (BASELINE, "supervised", "infomin")
COMPARED = ("detection", "readout", "measurement", "view-evaluation")  # kinds of run, in the order of the report
FINE_TUNED = ("detection", "readout")  # kinds whose runs have a seed of their own, beside the pre-training's
NEAREST = 3  # near experiments that are named
SHOWN_KEYS = 8  # of those that differ
IDENTITY_DIGITS = 6
ONE_SEED = " (one seed)"  # a flag behind n


@dataclass(frozen=True)
class Behind:
    """num_pretrainings: different weights that the runs of a row start from; 0: random ones, which each seed draws anew.
    num_seeds: of the runs."""

    num_pretrainings: int
    num_seeds: int

    def cell(self) -> str:
        """ "3", "3 x 5" (pre-trainings x seeds), "1 (one seed)"."""
        if self.num_pretrainings > 1:
            return f"{self.num_pretrainings} x {self.num_seeds}"
        return f"1{ONE_SEED}" if self.num_seeds == 1 else str(self.num_seeds)


@dataclass(frozen=True)
class Experiment:
    """Finished runs with one hash.

    short: beginning of the hash.
    title, name: in words, and in few, with keys that tell experiments apart which would read alike.
    metrics: names of the figures to show, in the literature's order.
    rows: name -> runs, rows in display order, runs by seed.
    baseline: the row that others are compared with, None where there is none.
    notes: what differs from near experiments; seeds that were measured more than once.
    """

    kind: str
    short: str
    title: str
    name: str
    metrics: tuple[str, ...]
    rows: Mapping[str, tuple[Run, ...]]
    baseline: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Run:
        """Any of the runs: what makes the experiment is equal in all of them."""
        return next(iter(self.rows.values()))[0]

    @property
    def leading_metric(self) -> str:
        """The figure of headlines and plots, "" where there is none."""
        return "bbox/AP50" if "bbox/AP50" in self.metrics else (self.metrics or ("",))[0]

    @property
    def others(self) -> tuple[str, ...]:
        """The rows that are compared with the baseline; empty without one."""
        return tuple(row for row in self.rows if row != self.baseline) if self.baseline else ()

    @property
    def digits(self) -> int:
        """Decimal places of its figures: percent and AP points have one, nats two."""
        return 1 if self.kind in FINE_TUNED else 2

    def cells(self, row: str, metric: str) -> dict[tuple[int | None, int], float]:
        """(Seed of the pre-training, seed of the run) -> figure of one row; equal measurements are averaged.

        A measurement of a pre-training has that one's seed alone.
        """
        found: dict[tuple[int | None, int], list[float]] = {}
        pretrainings = _pretrain_seeds(self.rows[row]) if self.kind in FINE_TUNED else {}
        for run in self.rows[row]:
            if metric in run.metrics:
                found.setdefault((pretrainings.get(run.path), seed_of(run)), []).append(run.metrics[metric])
        return {key: statistics.fmean(values) for key, values in found.items()}

    def figures(self, row: str, metric: str) -> dict[int, float]:
        """Seed of the run -> figure of one row, averaged over its pre-trainings."""
        return by_seed(self.cells(row, metric))

    def units(self, row: str, metric: str) -> list[float]:
        """The figures that a row's mean and deviation are of."""
        return units_of(self.cells(row, metric))

    def behind(self, row: str) -> Behind:
        """What stands behind a row."""
        runs = self.rows[row]
        seeds = _pretrain_seeds(runs)
        starts = {_origin(run) if seeds[run.path] is None else str(seeds[run.path]) for run in runs} - {""}
        return Behind(len(starts), len({seed_of(run) for run in runs}))


def by_seed(cells: Cells) -> dict[int, float]:
    """Seed of the run -> figure, averaged over the pre-trainings."""
    found: dict[int, list[float]] = {}
    for (_, seed), value in cells.items():
        found.setdefault(seed, []).append(value)
    return {seed: statistics.fmean(values) for seed, values in found.items()}


def units_of(cells: Cells) -> list[float]:
    """The figures that a mean and a deviation are of: one a pre-training where there are several, else one a seed."""
    by_pretraining: dict[int | None, list[float]] = {}
    for (pretraining, _), value in cells.items():
        by_pretraining.setdefault(pretraining, []).append(value)
    if len(by_pretraining) > 1:
        return [statistics.fmean(values) for values in by_pretraining.values()]
    return list(by_seed(cells).values())


def seed_of(run: Run) -> int:
    """The seed that figures are paired by: the run's own; of a measurement, which is of a pre-training, that one's."""
    of_pretraining = run.pretrain_seed if run.kind not in FINE_TUNED else None
    found = of_pretraining if of_pretraining is not None else run.seed
    return 0 if found is None else found


def group_runs(runs: Iterable[Run], *, baseline: str | None = None) -> tuple[Experiment, ...]:
    """The experiments among `runs`, detection first, of a kind the one of most runs, then of most labels; runs that are not done enter none.

    baseline: row that the others are compared with; None: "random" where there is one. Raises ConfigError for a name that no
    row has.
    """
    compared = [run for run in runs if run.done and run.kind in COMPARED]
    long, few = titles(compared), titles(compared, _in_few_words)
    members: dict[tuple[str, str], list[Run]] = {}
    for run in compared:
        members.setdefault((run.kind, run.record.hash), []).append(run)
    nearest = {key: _near_notes(own, members) for key, own in members.items()}
    experiments = []
    order = sorted(
        members.items(), key=lambda item: (COMPARED.index(item[0][0]), -len(item[1]), -num_images(item[1][0], "train"))
    )
    for (kind, key), own in order:
        rows = _rows(own)
        notes = (*nearest[kind, key], *input_notes(rows), *_repeated_notes(rows))
        experiments.append(
            Experiment(kind, short_hash(own[0].record), long[key], few[key], _metrics(own), rows, notes=notes)
        )
    return _with_baseline(experiments, baseline)


def _in_few_words(run: Run) -> str:
    """ "voc/R_50_C4_24k, 16,551 labelled images"."""
    count = num_images(run, "train") if run.kind in FINE_TUNED else 0
    return name_of(run) + (f", {count:,} labelled images" if count else "")


def row_names(runs: Iterable[Run]) -> dict[Path, str]:
    """Path of each run -> name of the row that it enters among `runs`."""
    members: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        members.setdefault((run.kind, run.record.hash), []).append(run)
    return {run.path: name for own in members.values() for name, row in _rows(own).items() for run in row}


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(runs: Sequence[Run]) -> dict[str, tuple[Run, ...]]:
    """Runs by label, and by the identity of what they start from where one label stands for several."""
    known = {
        start.sha256: str(start.pretraining["hash"])
        for run in runs
        if (start := run.record.initialisation) and start.sha256 and start.pretraining and start.pretraining.get("hash")
    }
    by_label: dict[str, dict[tuple[str, str], list[Run]]] = {}
    for run in runs:
        by_label.setdefault(run.label, {}).setdefault(_identity(run, known), []).append(run)
    rows: dict[str, list[Run]] = {}
    for label in sorted(by_label, key=_place):
        identities = by_label[label]
        if len(identities) == 1:
            rows[label] = next(iter(identities.values()))
        else:
            rows |= {
                _row_name(label, identity, identities): members for identity, members in sorted(identities.items())
            }
    return {
        name: tuple(sorted(members, key=lambda run: (seed_of(run), str(run.pretrain_seed), run.path)))
        for name, members in rows.items()
    }


def _identity(run: Run, known: Mapping[str, str]) -> tuple[str, str]:
    """(kind, value) of what a run starts from: the pre-training where it is known, else the weights' content, else their path.

    known: sha256 of weights -> hash of the pre-training that they come from.
    """
    start = run.record.initialisation
    if start is None or start.random_seed is not None or not start.weights or start.source == "random":
        return ("random", "")
    pretraining = (start.pretraining or {}).get("hash") or known.get(start.sha256 or "")
    if pretraining:
        return ("pre-training", str(pretraining))
    return ("weights", start.sha256) if start.sha256 else ("file", start.weights)


def _origin(run: Run) -> str:
    """The weights that a run starts from, by content; "" for random ones."""
    start = run.record.initialisation
    if start is None or start.random_seed is not None or start.source == "random":
        return ""
    return start.sha256 or start.weights


def _pretrain_seeds(runs: Sequence[Run]) -> dict[Path, int | None]:
    """Path of each run -> seed of its pre-training; where its weights lost their sidecar, that of equal weights."""
    known = {_origin(run): run.pretrain_seed for run in runs if run.pretrain_seed is not None and _origin(run)}
    return {run.path: known.get(_origin(run)) if run.pretrain_seed is None else run.pretrain_seed for run in runs}


def _row_name(label: str, identity: tuple[str, str], identities: Iterable[tuple[str, str]]) -> str:
    """The label with as much of the identity as tells it from the others."""
    kind, value = identity
    if kind == "random":
        return f"{label} (random)"
    if kind == "file":
        return f"{label} ({value})"
    digits = IDENTITY_DIGITS
    while (
        digits < len(value) and sum(own == kind and other[:digits] == value[:digits] for own, other in identities) > 1
    ):
        digits += 1
    return f"{label} ({kind} {value[:digits]})"


def _place(row: str) -> tuple[int, str]:
    return (ROW_ORDER.index(row) if row in ROW_ORDER else len(ROW_ORDER), row)


def _metrics(runs: Sequence[Run]) -> tuple[str, ...]:
    """Figures to show, of those that any of the runs has."""
    have = {name: None for run in runs for name in run.record.figures}
    kind, metric = runs[0].kind, runs[0].record.metric or ""
    if kind == "detection":
        order = VOC_ORDER if metric.startswith("VOC") else COCO_ORDER
        return tuple(f"{task}/{name}" for task in TASKS for name in order if f"{task}/{name}" in have)
    # A published readout; the figures of a fast one are named by their protocol.
    return ("top1", "top5") if kind == "readout" and (not have or "top1" in have) else tuple(have)


def metric_label(metric: str) -> str:
    """ "bbox/AP50" -> "box AP50"; "top1" -> "top-1"; "info_nce" -> "I_NCE (nats)"."""
    task, _, name = metric.rpartition("/")
    if task:
        return f"{TASKS.get(task, task)} {name}"
    return {"top1": "top-1", "top5": "top-5", "info_nce": "I_NCE (nats)"}.get(metric, metric)


# --- notes ------------------------------------------------------------------------------------------------------------


def _near_notes(own: Sequence[Run], members: Mapping[tuple[str, str], Sequence[Run]]) -> list[str]:
    """One sentence for each of the nearest other experiments of the same kind on the same data: what differs, key by key."""
    run = own[0]
    near = []
    for others in members.values():
        other = others[0]
        if other.record.hash != run.record.hash and other.kind == run.kind and _data(other) == _data(run):
            near.append((what_differs(other.record, run.record), other))
    near.sort(key=lambda entry: (len(entry[0]), entry[1].record.hash))
    notes = []
    for differing, other in near[:NEAREST]:
        keys = [f"{key_name(text).removesuffix(' now')} here" for text in differing[:SHOWN_KEYS]]
        more = f"; and {len(differing) - SHOWN_KEYS} keys more" if len(differing) > SHOWN_KEYS else ""
        notes.append(
            f"Not averaged with experiment {short_hash(other.record)}, which differs in {'; '.join(keys)}{more}."
        )
    if len(near) > NEAREST:
        notes.append(f"Nor with {len(near) - NEAREST} more experiments on the same data.")
    return notes


def _data(run: Run) -> dict[str, str]:
    return {role: data.fingerprint for role, data in run.record.data.items()}


def _repeated_notes(rows: Mapping[str, Sequence[Run]]) -> list[str]:
    """What was found or measured more often than once a seed."""
    notes = []
    for name, runs in rows.items():
        for run in runs:
            if run.copies:
                copies = ", ".join(map(str, run.copies))
                notes.append(f"{name}: {run.path} counts once; the same run lies at {copies}.")
        equal: dict[tuple[int | None, int], list[Run]] = {}
        for run in runs:
            equal.setdefault((run.pretrain_seed, seed_of(run)), []).append(run)
        for (_, seed), again in equal.items():
            if len(again) > 1:
                paths = ", ".join(str(run.path) for run in again)
                notes.append(
                    f"{name}: seed {seed} was measured {len(again)} times ({paths}): averaged within the seed, counted as one."
                )
    return notes


# --- the baseline -----------------------------------------------------------------------------------------------------


def _with_baseline(experiments: Sequence[Experiment], asked: str | None) -> tuple[Experiment, ...]:
    """Each experiment with its baseline, or a note why it has none. Raises ConfigError where no experiment has the one asked for."""
    wanted = BASELINE if asked is None else asked
    found = []
    several: list[str] = []
    for one in experiments:
        called = _rows_called(wanted, one)
        note = ""
        if len(called) > 1:
            several += called
            note = f"No differences: several rows start from other weights under the name {wanted}; --baseline can name one."
        elif not called and asked is not None:
            note = f"No row {asked} here: no differences."
        elif not called and len(one.rows) > 1:
            note = f"No differences: no row is called {wanted}; --baseline names the row to compare with."
        notes = (*one.notes, note) if note else one.notes
        found.append(replace(one, baseline=called[0] if len(called) == 1 else None, notes=notes))
    if asked is None or any(one.baseline for one in found):
        return tuple(found)
    if several:
        raise ConfigError(
            f"--baseline {asked}: several rows start from other weights under this name; name one of {', '.join(several)}"
        )
    rows = list(dict.fromkeys(row for one in experiments for row in one.rows))
    raise ConfigError(
        f"--baseline {asked}: no row has this name{did_you_mean(asked, rows)}; rows: {', '.join(rows) or 'none'}"
    )


def _rows_called(name: str, experiment: Experiment) -> list[str]:
    """The row of that name, else all that have it as their label."""
    return (
        [name] if name in experiment.rows else [row for row, runs in experiment.rows.items() if runs[0].label == name]
    )
