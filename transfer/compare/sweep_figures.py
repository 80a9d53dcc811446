"""A sweep's figures: information and accuracy at each setting, where the sweet spot lies, and what the curve shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy import stats

from pretrain.base.figures import Spread, spread
from pretrain.views.families import STACK, Family, Setting, show_setting
from transfer.compare.results import Information

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
        return spread([point.accuracy for point in self.figures.values() if point.accuracy is not None])

    @property
    def saturated(self) -> bool:
        """Whether an estimate of any seed has run into its ceiling."""
        return any(point.information.saturated for point in self.figures.values())

    @property
    def ceilings(self) -> set[float]:
        """The largest values that the estimates can take."""
        return {c for point in self.figures.values() if (c := point.information.ceiling) is not None}


@dataclass(frozen=True)
class SweetSpot:
    """The setting of the best mean accuracy, and what must be known with it."""

    setting: Setting
    accuracy: Spread
    notes: tuple[str, ...]

    def line(self, family: Family) -> str:
        """For people."""
        return (
            f"sweet spot: {family.name} {show_setting(self.setting)} ({self.accuracy.cell()} %, "
            f"{self.accuracy.n} seed{'s' if self.accuracy.n > 1 else ''})"
        )


def is_ordered(family: Family) -> bool:
    """Whether settings have neighbours: numbers and stacks do, colour spaces do not."""
    return family.limits is not None or tuple(family.settings) == tuple(STACK)


def find_sweet_spot(rows: Sequence[Row], family: Family) -> SweetSpot | None:
    """The best mean accuracy, with its doubts; None where there is no accuracy."""
    scored = [(row, row.accuracy) for row in rows]
    known = [(row, value) for row, value in scored if value is not None]
    if not known:
        return None
    place, (best, accuracy) = max(enumerate(known), key=lambda entry: entry[1][1].mean)
    if is_ordered(family):
        rivals = known[max(0, place - 1) : place] + known[place + 1 : place + 2]
    else:
        rivals = sorted((entry for entry in known if entry[0] is not best), key=lambda entry: -entry[1].mean)[:1]
    notes = [note for row, value in rivals if (note := _closeness(row, accuracy, value))]
    if is_ordered(family) and len(known) > 1 and place in (0, len(known) - 1):
        notes.append(_at_the_end(family, [row.setting for row, _ in known], first=place == 0))
    if best.saturated:
        notes.append("its I_NCE is saturated: how much its views share is not known")
    return SweetSpot(best.setting, accuracy, tuple(notes))


def _closeness(rival: Row, best: Spread, value: Spread) -> str | None:
    difference = best.mean - value.mean
    name = show_setting(rival.setting)
    noise = _noise(best, value)
    if noise is None:
        return f"{name} is {difference:.1f} points lower with one seed each: whether that is chance is not known"
    if difference <= noise:
        return f"{name} is {difference:.1f} points lower, within the spread over seeds ({noise:.1f}): the two are not told apart"
    return None


def _noise(first: Spread, second: Spread) -> float | None:
    """Standard deviation of the difference of one figure of each; None with a single seed."""
    return None if first.std is None or second.std is None else math.hypot(first.std, second.std)


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
    return tuple(line for line in (*lines, _unlearned(rows)) if line)


def _direction(rows: Sequence[Row], family: Family) -> str:
    values = [row.nats.mean for row in rows]
    rank = float(stats.spearmanr(range(len(rows)), values).statistic) if len(set(values)) > 1 else 0.0
    low, high = show_setting(rows[0].setting), show_setting(rows[-1].setting)
    ends = f"{rows[0].nats.mean:.2f} nats at {low}, {rows[-1].nats.mean:.2f} at {high}, rank correlation {rank:+.2f}"
    if abs(rank) < CLEAR_RANK:
        expected = "" if family.shares_more is None else f", although views at the {family.shares_more} end share more"
        return f"I_NCE has no single direction ({ends}){expected}"
    found = "high" if rank > 0 else "low"
    expected = {None: "", found: ", as expected"}.get(family.shares_more, ", against what is expected")
    return f"I_NCE {'rises' if rank > 0 else 'falls'} from {low} to {high} ({ends}){expected}"


def _unlearned(rows: Sequence[Row]) -> str:
    negative = [f"{show_setting(row.setting)} ({row.nats.mean:.2f})" for row in rows if row.nats.mean < 0]
    if not negative:
        return ""
    return (
        f"I_NCE is below 0 at {', '.join(negative)}: information is not, so the critic has learned nothing that holds on new "
        "images there (too short a training, or an unstable one)"
    )


def _shape(rows: Sequence[Row]) -> str:
    values = [row.accuracy for row in rows]
    known = [value for value in values if value is not None]
    if len(known) < len(rows):
        return ""
    place = max(range(len(known)), key=lambda position: known[position].mean)
    if place in (0, len(known) - 1):
        end = f"{'first' if place == 0 else 'last'} setting, {show_setting(rows[place].setting)}"
        return f"accuracy is best at the {end}: no rise and fall is seen within the range"
    drops = [(known[place].mean - known[end].mean, _noise(known[place], known[end])) for end in (0, -1)]
    figures = f"{drops[0][0]:.1f} points below the best at the first setting, {drops[1][0]:.1f} at the last"
    if any(noise is None for _, noise in drops):
        return f"accuracy rises and then falls ({figures}), with one seed: whether that is chance is not known"
    if all(noise is not None and drop > noise for drop, noise in drops):
        return f"accuracy rises and then falls, by more than the spread over seeds ({figures})"
    return f"accuracy is best inside the range, but not by more than the spread over seeds ({figures})"


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
