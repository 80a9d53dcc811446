"""A sweep's figures: information and accuracy at each setting, where the sweet spot lies, and what the curve shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pretrain.base.figures import Spread, spread
from pretrain.views.families import STACK, Family, Setting, show_setting
from transfer.compare.results import Information
from transfer.compare.statistics import PairedDifference, paired_difference

CLEAR_RANK = 0.9  # a rank correlation from here on counts as a direction
SATURATED_MARK = "*"


@dataclass(frozen=True)
class Figures:
    """One point. accuracy: downstream, in percent; None where it is not measured."""

    information: Information
    accuracy: float | None


@dataclass(frozen=True)
class Row:
    """One setting over its seeds."""

    setting: Setting
    figures: dict[int, Figures] = field(default_factory=dict)

    @property
    def nats(self) -> Spread:
        """I_NCE over seeds."""
        value = spread([point.information.nats for point in self.figures.values()])
        assert value is not None
        return value

    @property
    def accuracy(self) -> Spread | None:
        """Downstream accuracy over seeds, None where it is not measured."""
        return spread(list(self.accuracy_by_seed.values()))

    @property
    def accuracy_by_seed(self) -> dict[int, float]:
        """Seed -> downstream accuracy, of the seeds that have one."""
        return {seed: point.accuracy for seed, point in self.figures.items() if point.accuracy is not None}

    @property
    def saturated(self) -> bool:
        """Whether an estimate of any seed has run into its ceiling."""
        return any(point.information.saturated for point in self.figures.values())

    @property
    def ceilings(self) -> set[float]:
        """The largest values that the estimates can take."""
        return {c for point in self.figures.values() if (c := point.information.ceiling) is not None}


@dataclass(frozen=True)
class Rival:
    """A setting that the best one is compared with. difference: the best's accuracy minus its own, paired by seed."""

    setting: Setting
    difference: PairedDifference | None

    def line(self) -> str:
        """For people."""
        name, found = show_setting(self.setting), self.difference
        if found is None:
            return f"{name} has no seed in common with it: not compared"
        if found.n == 1:
            return f"{name} is {found.mean:.1f} points lower with one seed: whether that is chance is not known"
        end = "" if found.verdict == "higher" else ": not told apart"
        return f"{name} is {found.mean:.1f} points lower, {show_interval(found)}{end}"


@dataclass(frozen=True)
class SweetSpot:
    """The setting of the best mean accuracy, and what must be known with it.

    rivals: its neighbours; of settings without an order, the runner-up.
    notes: sentences.
    """

    setting: Setting
    accuracy: Spread
    rivals: tuple[Rival, ...]
    notes: tuple[str, ...]

    def line(self, family: Family) -> str:
        """For people."""
        return (
            f"best mean: {family.name} {show_setting(self.setting)} ({self.accuracy.cell()} %, "
            f"{self.accuracy.n} seed{'s' if self.accuracy.n > 1 else ''})"
        )


def show_interval(difference: PairedDifference) -> str:
    """ "interval +1.2 to +9.4, n = 3"."""
    return f"interval {difference.interval()}, n = {difference.n}"


def compare(first: Row, second: Row, *, num_settings: int) -> PairedDifference | None:
    """Accuracy of the first minus the second. Which two of a sweep's settings are looked at is decided by their figures, so
    all pairs of its settings count as comparisons."""
    return paired_difference(
        first.accuracy_by_seed, second.accuracy_by_seed, comparisons=num_settings * (num_settings - 1) // 2
    )


def is_ordered(family: Family) -> bool:
    """Whether settings have neighbours: numbers and stacks do, colour spaces do not."""
    return family.limits is not None or tuple(family.settings) == tuple(STACK)


def find_sweet_spot(rows: Sequence[Row], family: Family) -> SweetSpot | None:
    """The best mean accuracy, with its doubts; None where there is no accuracy."""
    known = [row for row in rows if row.accuracy is not None]
    if not known:
        return None
    place, best = _best(known)
    if is_ordered(family):
        others = known[max(0, place - 1) : place] + known[place + 1 : place + 2]
    else:
        others = [_best([row for row in known if row is not best])[1]] if len(known) > 1 else []
    rivals = tuple(Rival(row.setting, compare(best, row, num_settings=len(known))) for row in others)
    notes = [rival.line() for rival in rivals]
    if is_ordered(family) and len(known) > 1 and place in (0, len(known) - 1):
        notes.append(_at_the_end(family, [row.setting for row in known], first=place == 0))
    if best.saturated:
        notes.append("its I_NCE is saturated: how much its views share is not known")
    assert best.accuracy is not None
    return SweetSpot(best.setting, best.accuracy, rivals, tuple(notes))


def _best(known: Sequence[Row]) -> tuple[int, Row]:
    """(position, row) of the highest mean of rows that all have an accuracy."""
    return max(enumerate(known), key=lambda entry: entry[1].accuracy.mean if entry[1].accuracy else -math.inf)


def _at_the_end(family: Family, settings: Sequence[Setting], *, first: bool) -> str:
    end, inner = (settings[0], settings[1]) if first else (settings[-1], settings[-2])
    text = f"it lies at the end of the range, so the best may lie beyond {show_setting(end)}"
    if family.limits is None or isinstance(end, str) or isinstance(inner, str):
        return text
    beyond = end * end / inner if family.geometric and inner > 0 and end > 0 else 2 * end - inner
    beyond = float(f"{min(max(beyond, family.limits[0]), family.limits[1]):.3g}")
    if beyond == end:
        return f"it lies at the end of what {family.name} allows ({show_setting(end)})"
    return f"{text}: add {show_setting(beyond)} to --settings (what is done is kept)"


def findings(rows: Sequence[Row], family: Family) -> tuple[str, ...]:
    """What the curve shows, in sentences: where the information goes, and whether accuracy rises and then falls."""
    lines = [_direction(rows, family), _shape(rows)] if is_ordered(family) and len(rows) >= 3 else []
    return tuple(line for line in (*lines, _unlearned(rows), _rule(rows)) if line)


def _rule(rows: Sequence[Row]) -> str:
    """What the intervals of the other sentences are, where there are any."""
    known = [row for row in rows if row.accuracy is not None]
    found = compare(known[0], known[1], num_settings=len(known)) if len(known) > 1 else None
    if found is None or found.n == 1:
        return ""
    pairs = len(known) * (len(known) - 1) // 2
    joint = f" (95 % for all {pairs} pairs of settings together)" if pairs > 1 else ""
    return f"intervals of accuracy are paired by seed, of {100 * found.level:.4g} % each{joint}"


def _direction(rows: Sequence[Row], family: Family) -> str:
    from scipy import stats  # takes a moment to import

    values = [row.nats.mean for row in rows]
    rank = float(stats.spearmanr(range(len(rows)), values).statistic) if len(set(values)) > 1 else 0.0
    low, high = show_setting(rows[0].setting), show_setting(rows[-1].setting)
    ends = f"{rows[0].nats.mean:.2f} nats at {low}, {rows[-1].nats.mean:.2f} at {high}, rank correlation {rank:+.2f}"
    if abs(rank) < CLEAR_RANK:
        expected = "" if family.shares_more is None else f", although views at the {family.shares_more} end share more"
        return f"I_NCE has no single direction ({ends}){expected}"
    found = "high" if rank > 0 else "low"
    expected = {None: "", found: ", as expected"}.get(family.shares_more, ", against what is expected")
    nats = [{seed: point.information.nats for seed, point in row.figures.items()} for row in (rows[0], rows[-1])]
    across = paired_difference(nats[1], nats[0])
    doubt = ""
    if across and across.n == 1:
        doubt = "; with one seed: whether that is chance is not known"
    elif across and across.verdict == "not told apart":
        doubt = f"; the ends are not told apart, {show_interval(across)}"
    return f"I_NCE {'rises' if rank > 0 else 'falls'} from {low} to {high} ({ends}){expected}{doubt}"


def _unlearned(rows: Sequence[Row]) -> str:
    negative = [f"{show_setting(row.setting)} ({row.nats.mean:.2f})" for row in rows if row.nats.mean < 0]
    if not negative:
        return ""
    return (
        f"I_NCE is below 0 at {', '.join(negative)}: information is not, so the critic has learned nothing that holds on new "
        "images there (too short a training, or an unstable one)"
    )


def _shape(rows: Sequence[Row]) -> str:
    if any(row.accuracy is None for row in rows):
        return ""
    place, best = _best(rows)
    if place in (0, len(rows) - 1):
        end = f"{'first' if place == 0 else 'last'} setting, {show_setting(best.setting)}"
        return f"accuracy is best at the {end}: no rise and fall is seen within the range"
    drops = [compare(best, rows[end], num_settings=len(rows)) for end in (0, -1)]
    if any(drop is None for drop in drops):
        return ""
    first, last = (drop for drop in drops if drop is not None)
    if first.n == 1:
        figures = f"{first.mean:.1f} points below the best at the first setting, {last.mean:.1f} at the last"
        return f"accuracy rises and then falls ({figures}), with one seed: whether that is chance is not known"
    figures = (
        f"{first.mean:.1f} points below the best at the first setting, {show_interval(first)}; "
        f"{last.mean:.1f} at the last, {show_interval(last)}"
    )
    doubtful = [name for name, drop in (("first", first), ("last", last)) if drop.verdict != "higher"]
    if not doubtful:
        return f"accuracy rises and then falls ({figures})"
    return f"accuracy is best inside the range, but not told apart from the {' and the '.join(doubtful)} setting ({figures})"


def format_table(rows: Sequence[Row], family: Family, *, accuracy_name: str, best: Setting | None) -> str:
    """Markdown: one row a setting, mean ± sample standard deviation over seeds."""
    columns = [family.name, "I_NCE (nats)", "ceiling", *([accuracy_name] if best is not None else []), "seeds"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        mark = SATURATED_MARK if row.saturated else ""
        ceilings = row.ceilings
        cells = [show_setting(row.setting), f"{row.nats.cell(2)}{mark}", f"{max(ceilings):.2f}" if ceilings else "-"]
        if best is not None:
            value = row.accuracy
            text = "-" if value is None else value.cell()
            cells.append(f"**{text}**" if row.setting == best else text)
        lines.append(f"| {' | '.join([*cells, str(row.nats.n)])} |")
    if any(row.saturated for row in rows):
        lines += [
            "",
            f"{SATURATED_MARK} saturated: close to the ceiling log(K + 1), where the estimate says little more.",
        ]
    return "\n".join(lines)
