"""How often each interval of a report holds the truth: simulated experiments whose truth is known.

    python tests/benchmarks/coverage.py [--experiments 4000] [--output docs/benchmarks/coverage.json]

Every interval is that of transfer/compare (statistics.py, bootstrap.py, matches.py), at 95 %. `holds`: the assumptions of the
interval are met, and its share must lie in 93 to 97 %; else the share is what the interval really covers. Controls are the
rules that a report must not use. The standard error of a share of 95 % is 0.3 % of 4,000 experiments and 0.7 % of 1,000.

Out: JSON, and the same as a Markdown table on the screen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pretrain.base.atomic import write_json  # noqa: E402
from pretrain.base.figures import t_half_width  # noqa: E402
from transfer.compare.bootstrap import accuracy_of, paired_bootstrap, resampled  # noqa: E402
from transfer.compare.matches import COCO_RECALLS, ClassMatches, Matches, average_precision  # noqa: E402
from transfer.compare.statistics import compare_cells, holm, paired_difference, permutation_test  # noqa: E402

WANTED = (0.93, 0.97)
RESAMPLES = 300  # of the simulated bootstraps; a report takes 1,000
DOCS = ROOT / "docs" / "benchmarks" / "coverage.json"


@dataclass(frozen=True)
class Row:
    """interval: which. case: what was simulated. share: of the experiments whose interval held the truth (of a p value: that
    saw a difference where there is none). experiments: their number. holds: the assumptions are met. control: not our rule."""

    interval: str
    case: str
    share: float
    experiments: int
    holds: bool
    control: bool = False


def row(interval: str, case: str, hits: list[bool], *, holds: bool = True, control: bool = False) -> Row:
    return Row(interval, case, round(float(np.mean(hits)), 4), len(hits), holds, control)


def inside(mean: float, half_width: float | None, truth: float) -> bool:
    return half_width is not None and abs(mean - truth) <= half_width


# --- seeds ------------------------------------------------------------------------------------------------------------


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0, deviation 1, skewness 6: a seed in twenty fails badly."""
    return (np.exp(rng.normal(size=shape)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def paired_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    for name, draw, holds in (("normal", lambda r, s: r.normal(size=s), True), ("skewed", skewed, False)):
        for n in (2, 3, 5, 10):
            seeds = 2.0 * rng.normal(size=(experiments, n))  # an easy or a hard draw of a seed, which both share
            ours = 5.0 + seeds + draw(rng, (experiments, n))
            baseline = seeds + 0.1 * rng.normal(size=(experiments, n))
            found = [
                paired_difference(dict(enumerate(a)), dict(enumerate(b))) for a, b in zip(ours, baseline, strict=True)
            ]
            hits = [inside(one.mean, one.half_width, 5.0) for one in found if one]
            yield row("t, paired by seed", f"{n} seeds, {name}", hits, holds=holds)


def bonferroni_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    for rows in (2, 4):
        for n in (3, 5):
            figures = rng.normal(size=(experiments, rows + 1, n)) + 2.0 * rng.normal(size=(experiments, 1, n))
            hits, alone = [], []
            for experiment in figures:
                by_seed = [dict(enumerate(values)) for values in experiment]
                for comparisons, into in ((rows, hits), (1, alone)):
                    found = [paired_difference(one, by_seed[0], comparisons=comparisons) for one in by_seed[1:]]
                    into.append(all(inside(one.mean, one.half_width, 0.0) for one in found if one))
            case = f"all of {rows} rows against one baseline, {n} seeds"
            yield row("t, Bonferroni", case, hits)
            yield row("t, each at 95 % (control)", case, alone, holds=False, control=True)


SOURCES = {  # standard deviations: of pre-trainings, of the seeds of the run (of the baseline's too), of what is left
    "pre-trainings decide": (1.0, 0.3, 0.3),
    "both": (1.0, 1.0, 0.5),
    "the run's seeds decide": (0.3, 1.0, 0.3),
    "neither": (0.0, 0.0, 1.0),
}


def two_level_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    for num_p, num_s in ((2, 3), (3, 3), (3, 5), (5, 3), (5, 5)):
        for name, (of_p, of_s, rest) in SOURCES.items():
            shape = (experiments, num_p, num_s)
            ours = 5.0 + of_p * rng.normal(size=(experiments, num_p, 1)) + rest * rng.normal(size=shape)
            baseline = of_s * rng.normal(size=(experiments, num_s))  # random weights: no pre-training to repeat
            hits, one_way, one_only = [], [], []
            for a, b in zip(ours, baseline, strict=True):
                cells = {(p, s): a[p, s] for p in range(num_p) for s in range(num_s)}
                found = compare_cells(cells, {(None, s): b[s] for s in range(num_s)})
                assert found is not None
                hits.append(inside(found.mean, found.half_width, 5.0))
                means = (a - b).mean(axis=1).tolist()
                one_way.append(inside(float(np.mean(means)), t_half_width(means), 5.0))
                first = paired_difference(dict(enumerate(a[0])), dict(enumerate(b)))
                assert first is not None
                one_only.append(inside(first.mean, first.half_width, 5.0))
            case = f"{num_p} pre-trainings x {num_s} seeds: {name}"
            # With no spread of either source, or two pre-trainings, it covers more than 95 %: its assumption is only "not less".
            yield row("t, pre-trainings and seeds", case, hits, holds=num_p > 2 and name != "neither")
            yield row("t over the means of pre-trainings (control)", case, one_way, holds=False, control=True)
            if (num_p, num_s) == (3, 5):
                case = f"{num_s} seeds of one pre-training, for the method: {name}"
                yield row("t over the seeds of one pre-training (control)", case, one_only, holds=False, control=True)


def permutation_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    """Shares of experiments in which a p of at most 0.05 sees what is not there."""
    for n in (5, 6, 10):
        for name, draw in (
            ("normal", rng.normal(size=(experiments, n))),
            ("heavy tails", rng.standard_t(2, (experiments, n))),
        ):
            alarms = [permutation_test(values).p <= 0.05 for values in draw]
            yield row("p of sign flips <= 0.05 (false alarms)", f"{n} seeds, {name}", alarms, holds=False)
    figures = rng.normal(size=(experiments, 4, 8))
    alarms = []
    for experiment in figures:
        tests = [permutation_test(one - experiment[0]).p for one in experiment[1:]]
        alarms.append(min(holm(tests)) <= 0.05)
    yield row("Holm's p <= 0.05 (false alarms)", "any of 3 rows against one baseline, 8 seeds", alarms, holds=False)


# --- images -----------------------------------------------------------------------------------------------------------


def top1_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    for num_images, share, holds in (
        (20, 0.5, False),
        (50, 0.5, True),
        (100, 0.5, True),
        (1000, 0.5, True),
        (50, 0.97, False),
    ):
        weights = resampled(num_images, resamples=RESAMPLES)
        once = np.minimum(weights, 1)  # the published fault: a set of images
        ease = rng.normal(size=(experiments, num_images))
        truth = 2.0  # the ease of an image and the noise on it have variance 1 together
        hits, faulty = [], []
        for images in ease:
            right = [images * 0.8 + 0.6 * rng.normal(size=num_images) < ndtri(level) for level in (share, share + 0.02)]
            for draws, into in ((weights, hits), (once, faulty)):
                baseline, ours = (accuracy_of(values, draws) for values in right)
                found = paired_bootstrap([ours], [baseline], num_images=num_images)
                into.append(found is not None and inside(found.mean, found.half_width, truth))
        case = f"{num_images} images, {100 * share:g} % right"
        yield row("bootstrap over images, top-1", case, hits, holds=holds)
        yield row("the same without repetitions (control)", f"top-1, {case}", faulty, holds=False, control=True)


def detectors(num_images: int, num_classes: int, rng: np.random.Generator) -> list[Matches]:
    """Two detectors on the same images, as matches at one IoU: the second finds 65 % of the objects, the first 55 %.

    Hard images are hard for both.
    """
    hard = rng.normal(size=num_images)
    where = np.repeat(np.arange(num_images), rng.poisson(3.0, num_images))
    of_class = rng.integers(0, num_classes, len(where))
    ease = 0.7 * hard[where] + 0.5 * rng.normal(size=len(where))
    found = []
    for share in (0.55, 0.65):
        hit = ease + 0.5 * rng.normal(size=len(where)) < ndtri(share)
        false = np.repeat(np.arange(num_images), rng.poisson(2.5, num_images))
        image = np.concatenate([where[hit], false])
        score = np.concatenate(
            [0.6 - 0.5 * ease[hit] + 0.5 * rng.normal(size=int(hit.sum())), rng.normal(-0.6, 0.7, len(false))]
        )
        classes = np.concatenate([of_class[hit], rng.integers(0, num_classes, len(false))])
        true = np.arange(len(image)) < hit.sum()
        parts = []
        for number in range(num_classes):
            own = np.flatnonzero(classes == number)
            own = own[np.argsort(-score[own], kind="stable")]
            objects = np.bincount(where[of_class == number], minlength=num_images)
            parts.append(ClassMatches(image[own], score[own], true[own][None], np.ones((1, len(own)), bool), objects))
        found.append(Matches(tuple(range(num_images)), tuple(parts), COCO_RECALLS))
    return found


def ap_rows(experiments: int, rng: np.random.Generator) -> Iterator[Row]:
    first, second = (average_precision(one, np.ones((1, 200_000), int))[0, 0] for one in detectors(200_000, 1, rng))
    truth = float(second - first)  # to 0.06 points; of any number of classes, as they are alike
    for num_images, num_classes, repeats, holds in ((20, 3, 1, False), (50, 3, 1, True), (100, 3, 1, True), (100, 20, 1, True),
                                                    (400, 3, 1, True), (100, 3, 5, False)):  # fmt: skip
        weights = resampled(num_images, resamples=RESAMPLES)
        once = np.minimum(weights, 1)
        hits, faulty = [], []
        for _ in range(experiments):
            pair = detectors(num_images // repeats, num_classes, rng)
            for draws, into in ((weights, hits), (once, faulty)):
                scenes = draws.reshape(len(draws), -1, repeats).sum(axis=2)  # frames of a scene are all the same
                baseline, ours = (average_precision(one, scenes)[:, 0] for one in pair)
                found = paired_bootstrap([ours], [baseline], num_images=num_images)
                into.append(found is not None and inside(found.mean, found.half_width, truth))
        alike = f", {repeats} frames of each scene" if repeats > 1 else ""
        case = f"{num_images} images, {num_classes} classes{alike}"
        yield row("bootstrap over images, AP", case, hits, holds=holds)
        yield row("the same without repetitions (control)", f"AP, {case}", faulty, holds=False, control=True)


# --- all --------------------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[Callable[[int, np.random.Generator], Iterator[Row]], float]] = {  # share of --experiments
    "paired": (paired_rows, 1.0),
    "bonferroni": (bonferroni_rows, 1.0),
    "two-level": (two_level_rows, 1.0),
    "permutation": (permutation_rows, 0.5),
    "top-1": (top1_rows, 0.5),
    "ap": (ap_rows, 0.25),
}


def simulate(part: str, experiments: int, *, seed: int = 0) -> list[Row]:
    """The rows of one part."""
    rows, share = PARTS[part]
    return list(rows(max(1, round(share * experiments)), np.random.default_rng([seed, list(PARTS).index(part)])))


def markdown(rows: list[Row]) -> str:
    lines = ["| interval | case | covers | experiments | assumptions hold |", "|---|---|---:|---:|---|"]
    for one in rows:
        holds = "control" if one.control else "yes" if one.holds else "no" if "alarms" not in one.interval else "-"
        lines.append(f"| {one.interval} | {one.case} | {100 * one.share:.1f} % | {one.experiments:,} | {holds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=DOCS)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for part in PARTS:
        rows += simulate(part, arguments.experiments)
        write_json(arguments.output, {"level": 0.95, "wanted": WANTED, "rows": [asdict(one) for one in rows]})
    print(markdown(rows))


if __name__ == "__main__":
    main()
