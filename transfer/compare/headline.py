"""What an experiment found, in one sentence, computed from the verdicts of the one rule.

In: an `Experiment`. Out: "Box AP50: mine beats random by 5.3 [1.2, 9.4] and is not told apart from theirs (+0.3 [-2.0, 2.6])."
"""

from __future__ import annotations

from transfer.compare.comparisons import Comparison, compared_with
from transfer.compare.experiments import Experiment, metric_label

SPELT_OUT = 4  # rows against the subject that are given with their intervals
NO_SEED = "no common seed"
SUPERVISED = "supervised"


def subject_of(experiment: Experiment, *, asked: str | None = None) -> str | None:
    """The row that the sentence speaks of: the one asked for, else the first of a pre-training of ours, else the first that is
    not the baseline. None for one row, or without a baseline (the question is then whether the rows differ, which no row asks)."""
    if len(experiment.rows) < 2 or not experiment.leading_metric:
        return None
    if asked is not None and asked in experiment.rows:
        return asked
    if not experiment.others:
        return None
    own = [row for row in experiment.others if _is_ours(experiment, row)]
    own.sort(key=lambda row: row == SUPERVISED)  # a reference, also where it was trained here
    return (own or list(experiment.others))[0]


def _is_ours(experiment: Experiment, row: str) -> bool:
    start = experiment.rows[row][0].record.initialisation
    return start is not None and (start.pretraining is not None or row == "infomin")


def headline(experiment: Experiment, *, subject: str | None = None) -> str | None:
    """The subject against every other row in the leading metric, the baseline first. None where nothing is compared."""
    row = subject_of(experiment, asked=subject)
    if row is None:
        return None
    found = _against_all(experiment, row)
    label = metric_label(experiment.leading_metric)
    parts = [text for text in (_beats(found, label, experiment), _loses(found, label, experiment)) if text]
    equal = _equal(found, experiment, unit="" if parts else label)  # which a part before it has named
    parts += [equal] if equal else []
    parts += _without_interval(found, experiment)
    return f"{experiment.name} [{experiment.short}]: {row} {_joined(parts)}{_basis(experiment, row, found)}."


def _against_all(experiment: Experiment, subject: str) -> list[Comparison]:
    """subject minus each other row, the baseline first: one question."""
    others = [row for row in experiment.rows if row != subject]
    others.sort(key=lambda row: row != experiment.baseline)
    found: list[Comparison] = []
    for other in others:
        found += compared_with(experiment, other, experiment.leading_metric, rows=(subject,), comparisons=len(others))
    return found


def _verdicts(found: list[Comparison], verdict: str) -> list[Comparison]:
    return [one for one in found if one.difference is not None and one.difference.verdict == verdict]


def _beats(found: list[Comparison], label: str, experiment: Experiment) -> str:
    won = _verdicts(found, "higher")
    return f"beats {_listed(won, experiment, unit=label)}" if won else ""


def _loses(found: list[Comparison], label: str, experiment: Experiment) -> str:
    lost = _verdicts(found, "lower")
    return f"is below {_listed(lost, experiment, unit=label, turned=True)}" if lost else ""


def _listed(found: list[Comparison], experiment: Experiment, *, unit: str, turned: bool = False) -> str:
    if len(found) > SPELT_OUT:
        return f"{', '.join(one.other for one in found)} in {unit}"
    texts = []
    for number, one in enumerate(found):
        sign = -1.0 if turned else 1.0
        assert one.difference is not None and one.difference.half_width is not None
        mean, half, digits = sign * one.difference.mean, one.difference.half_width, experiment.digits
        ends = f"[{mean - half:.{digits}f}, {mean + half:.{digits}f}]"
        texts.append(f"{one.other} by {mean:.{digits}f}{'' if number else f' {unit}'} {ends}")
    return _and(texts)


def _equal(found: list[Comparison], experiment: Experiment, *, unit: str) -> str:
    same = _verdicts(found, "not told apart")
    told = f"is not told apart{f' in {unit}' if unit else ''} from"
    if len(same) > SPELT_OUT:
        return f"{told} {', '.join(one.other for one in same)}"
    texts = []
    for one in same:
        assert one.difference is not None
        mean, half, digits = one.difference.mean, one.difference.half_width, experiment.digits
        none = ", no interval: all differ by the same"
        ends = none if half is None else f" [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
        texts.append(f"{one.other} ({mean:+.{digits}f}{ends})")
    return f"{told} {_and(texts)}" if texts else ""


def _without_interval(found: list[Comparison], experiment: Experiment) -> list[str]:
    parts = []
    for one in _verdicts(found, "one seed"):
        assert one.difference is not None
        mean, digits = one.difference.mean, experiment.digits
        side = "above" if mean > 0 else "below"
        images = ""
        if one.images is not None:
            low, high = (one.images.mean + sign * one.images.half_width for sign in (-1, 1))
            images = f"; over the {one.images.n:,} test images alone {low:+.{digits}f} to {high:+.{digits}f}"
        label = metric_label(experiment.leading_metric)
        parts.append(
            f"is {abs(mean):.{digits}f} {label} {side} {one.other} in one seed, which leaves open whether they differ{images}"
        )
    return parts + [f"has no seed in common with {one.other}" for one in found if one.difference is None]


def _basis(experiment: Experiment, row: str, found: list[Comparison]) -> str:
    """What the intervals are over, and what they leave out."""
    known = [one.difference for one in found if one.difference is not None and one.difference.n > 1]
    if not known:
        return ""
    level = f"{100 * known[0].level:.4g} % intervals" if known[0].level != 0.95 else "95 % intervals"
    units = " and ".join(dict.fromkeys(one.units() for one in known))
    once = experiment.behind(row).num_pretrainings == 1
    return f" ({level} over {units}{', of one pre-training: they are of fine-tuning alone' if once else ''})"


def _and(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _joined(parts: list[str]) -> str:
    return (
        parts[0]
        if len(parts) == 1
        else f"{'; '.join(parts[:-1])} and {parts[-1]}"
        if len(parts) == 2
        else "; ".join(parts)
    )
