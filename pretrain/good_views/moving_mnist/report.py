"""What an experiment shows: the table of means and deviations beside the paper's figures, and a sheet of sample pairs.

In: the figures of finished cells; a `PairMaker`. Out: plain values for results.json, the same as Markdown; a picture.

"Retained" says how much of what a factor teaches when it is shared alone is still learned when others are shared with it:
1 is all, 0 is what encoders learn that do not share it. It compares rows of one table, so that scale does not matter.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretrain.base.figures import Spread, spread, t_half_width
from pretrain.good_views.moving_mnist.factors import CONSTANT, FACTORS, PAPER, RANDOM, SHARINGS, SUPERVISED
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.probing import TASKS, VIEWS

ROWS = (*(sharing.name for sharing in SHARINGS), SUPERVISED, RANDOM, CONSTANT)
SINGLE = FACTORS  # a sharing of one factor has the factor's name
# A factor that gives less than this when shared alone (percent or pixels) has nothing of which a share could be retained.
LEAST_GAIN = {"digit": 3.0, "position": 1.0, "background": 3.0}
UNITS = {"digit": "digit error, %", "position": "distance, px", "background": "background error, %"}

CELL = 112  # pixels of a cell, whatever the canvas
GAP = 6
BREAK = 26  # between the frames of view 1 and the second views
LINE = 18
CAPTION_LINES = 4  # a heading, and up to three factors
MAX_FRAMES = 5
PAPER_COLOUR, INK, QUIET = (250, 250, 250), (40, 40, 40), (110, 110, 110)

Figures = dict[str, dict[str, dict[str, float]]]  # row -> task -> {"mean", "std", "num_seeds"}


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cells -> {"rows": view -> row -> task -> mean, std, num_seeds, "information": row -> ..., "retained": ..., "claims": ...}."""
    rows: dict[str, Figures] = {view: _figures(results, view) for view in VIEWS}
    paper: Figures = {row: {task: {"mean": getattr(figures, task)} for task in TASKS} for row, figures in PAPER.items()}
    information = {}
    for row in ROWS:
        estimates = [result["information"] for result in results if result["row"] == row and "information" in result]
        if estimates:
            information[row] = {
                **_spread([estimate["nats"] for estimate in estimates]),
                "ceiling": estimates[0]["ceiling"],
                "saturated": any(estimate["saturated"] for estimate in estimates),
            }
    retained = {view: _retained(rows[view]) for view in VIEWS}
    seeds = dict.fromkeys(result["seed"] for result in results)
    by_seed = {
        view: [_figures([result for result in results if result["seed"] == seed], view) for seed in seeds]
        for view in VIEWS
    }
    return {
        "rows": rows,
        "information": information,
        "retained": {**retained, "paper (UNVERIFIED)": _retained(paper)},
        "claims": {view: _claims(rows[view], retained[view], by_seed[view]) for view in VIEWS},
    }


def _figures(results: Sequence[Mapping[str, Any]], view: str) -> Figures:
    figures: Figures = {}
    for row in ROWS:
        for task in TASKS:
            values = [
                result["errors"][view][task]
                for result in results
                if result["row"] == row and task in result["errors"][view]
            ]
            if values:
                figures.setdefault(row, {})[task] = _spread(values)
    return figures


def _spread(values: Sequence[float]) -> dict[str, float]:
    """For JSON; std: 0 for one seed, which num_seeds tells."""
    found = spread(values)
    assert found is not None
    return {"mean": found.mean, "std": found.std or 0.0, "num_seeds": found.n}


def _cell(figure: Mapping[str, float], digits: int = 1) -> str:
    alone = figure["num_seeds"] == 1
    return Spread(figure["mean"], None if alone else figure["std"], int(figure["num_seeds"])).cell(digits)


def _retained(rows: Figures) -> dict[str, dict[str, float | None]]:
    """Row of several factors -> shared factor -> retained share; None where the factor alone gives too little."""
    if not all(factor in rows for factor in SINGLE):
        return {}
    shares: dict[str, dict[str, float | None]] = {}
    for sharing in SHARINGS:
        if len(sharing.factors) == 1 or sharing.name not in rows:
            continue
        shares[sharing.name] = {}
        for factor in sharing.factors:
            without = statistics.fmean(rows[other][factor]["mean"] for other in SINGLE if other != factor)
            gain = without - rows[factor][factor]["mean"]
            kept = without - rows[sharing.name][factor]["mean"]
            shares[sharing.name][factor] = kept / gain if gain >= LEAST_GAIN[factor] else None
    return shares


def _claims(
    rows: Figures, retained: Mapping[str, Mapping[str, float | None]], by_seed: Sequence[Figures]
) -> list[dict[str, Any]]:
    """The paper's findings as yes-or-no questions to this table, each decided by `_above_zero` over the seeds. held None:
    cannot be told from these rows."""
    claims = []
    for factor in SINGLE:
        # Random weights too: features that were never trained tell a class or a place to some degree.
        rivals = {row: rows[row][factor]["mean"] for row in (*SINGLE, RANDOM) if row != factor and row in rows}
        held = None
        found = "a row is missing"
        if factor in rows and len(rivals) == len(SINGLE):
            own, best = rows[factor][factor]["mean"], min(rivals, key=rivals.__getitem__)
            whole = [one for one in by_seed if factor in one and all(row in one for row in rivals)]
            decided = {
                _above_zero(
                    [one[row][factor]["mean"] - one[factor][factor]["mean"] - LEAST_GAIN[factor] for one in whole]
                )
                for row in rivals
            }
            held = False if False in decided else None if None in decided else True
            found = f"{UNITS[factor]}: {own:.1f}; the best of the others {rivals[best]:.1f} ({best}); n = {len(whole)}"
        claims.append({"claim": f"sharing the {factor} alone teaches the {factor}", "held": held, "found": found})
    shares = [_retained(one) for one in by_seed]
    for sharing in SHARINGS:
        if "background" in sharing.factors and len(sharing.factors) > 1:
            claims += _dominance(retained, shares, sharing.name, "background", sharing.factors)
    claims += _dominance(retained, shares, "digit+position", "digit", ("digit", "position"))
    return claims


def _dominance(
    retained: Mapping[str, Mapping[str, float | None]],
    by_seed: Sequence[Mapping[str, Mapping[str, float | None]]],
    row: str,
    winner: str,
    factors: Sequence[str],
) -> list[dict[str, Any]]:
    claims = []
    for loser in factors:
        if loser == winner:
            continue
        pairs = [(one.get(row, {}).get(winner), one.get(row, {}).get(loser)) for one in by_seed]
        gaps = [first - second for first, second in pairs if first is not None and second is not None]
        shown = {factor: _share(retained.get(row, {}).get(factor)) for factor in (winner, loser)}
        found = f"retained: {winner} {shown[winner]}, {loser} {shown[loser]}; n = {len(gaps)}"
        claims.append({"claim": f"{row}: {winner} dominates over {loser}", "held": _above_zero(gaps), "found": found})
    return claims


def _above_zero(differences: Sequence[float]) -> bool | None:
    """The rule of studies, sweeps and reports (transfer/compare/statistics.py): whether the 95 % interval of the mean of
    differences, one a seed, lies above 0; False: below; None: neither, or no interval, as with one seed."""
    if len(differences) < 2 or max(differences) - min(differences) < 1e-9:
        return None
    mean, half_width = statistics.fmean(differences), t_half_width(differences)
    return None if abs(mean) <= half_width else mean > 0


def _share(value: float | None) -> str:
    return "cannot be told" if value is None else f"{value:.2f}"


def to_markdown(summary: Mapping[str, Any], *, title: str) -> str:
    """The whole summary as a page of tables."""
    lines = [
        f"# {title}",
        "",
        "Mean ± standard deviation over seeds, on digits and backgrounds that were not trained on. "
        "Paper: another scale and other backgrounds; recalled, UNVERIFIED. "
        "The position is that of the frame that view 2 shows.",
    ]
    for view in VIEWS:
        lines += ["", f"## Probes of the {view} encoder", "", *_error_table(summary, view)]
    lines += ["", "## Retained share of what each shared factor teaches alone", "", *_retained_table(summary)]
    for view in VIEWS:
        lines += ["", f"## Does what is shared decide what is learned? ({view} encoder)", ""]
        lines += ["By the 95 % interval of paired differences over n seeds; with one seed nothing can be told.", ""]
        for claim in summary["claims"][view]:
            verdict = {True: "holds", False: "DOES NOT HOLD", None: "cannot be told"}[claim["held"]]
            lines.append(f"- {claim['claim']}: **{verdict}** ({claim['found']})")
    return "\n".join(lines) + "\n"


def _error_table(summary: Mapping[str, Any], view: str) -> list[str]:
    lines = [
        "| shared | " + " | ".join(UNITS[task] for task in TASKS) + " | I_NCE, nats | paper: digit / px / background |",
        "|---|" + "---:|" * (len(TASKS) + 1) + "---|",
    ]
    rows = summary["rows"][view]
    for row in ROWS:
        if row in rows:
            cells = [_cell(rows[row][task]) if task in rows[row] else "" for task in TASKS]
            paper = PAPER.get(row)
            quoted = f"{paper.digit} / {paper.position} / {paper.background}" if paper else ""
            lines.append(f"| {row} | {' | '.join(cells)} | {_nats(summary['information'].get(row))} | {quoted} |")
    return lines


def _retained_table(summary: Mapping[str, Any]) -> list[str]:
    columns = list(summary["retained"])
    lines = ["| shared | factor | " + " | ".join(columns) + " |", "|---|---|" + "---:|" * len(columns)]
    for sharing in SHARINGS:
        if len(sharing.factors) > 1:
            for factor in sharing.factors:
                shares = [summary["retained"][column].get(sharing.name, {}).get(factor) for column in columns]
                lines.append(f"| {sharing.name} | {factor} | {' | '.join(map(_share, shares))} |")
    return lines


def _nats(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{_cell(figure, 2)} of {figure['ceiling']:.2f}{' (saturated)' if figure['saturated'] else ''}"


def draw_samples(maker: PairMaker, *, split: str = "held_out", num_pairs: int = 6) -> np.ndarray:
    """The first `num_pairs` pairs of a split. Of a long sequence MAX_FRAMES frames are shown, the first and last among them."""
    batches = [maker(sharing, split=split, start=0, count=num_pairs) for sharing in SHARINGS]
    num_frames = batches[0].view_1.shape[1]
    shown = np.unique(np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int))
    columns = [(f"frame {frame + 1}", batches[0].view_1[:, frame].numpy()) for frame in shown]
    columns += [
        (sharing.name.replace("+", " +\n"), batch.view_2.numpy())
        for sharing, batch in zip(SHARINGS, batches, strict=True)
    ]
    lefts = [GAP + column * (CELL + GAP) + (BREAK if column >= len(shown) else 0) for column in range(len(columns))]
    top = GAP + CAPTION_LINES * LINE
    sheet = Image.new("RGB", (lefts[-1] + CELL + GAP, top + num_pairs * (CELL + GAP)), PAPER_COLOUR)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(size=14), ImageFont.load_default(size=13)
    last = maker.scene.future_steps
    pen.text((lefts[0], GAP), f"view 1: {num_frames} frames", fill=INK, font=bold)
    pen.text(
        (lefts[len(shown)], GAP), f"view 2: one image, {last} frames later, shares with view 1 ...", fill=INK, font=bold
    )
    for left, (caption, views) in zip(lefts, columns, strict=True):
        pen.multiline_text(
            (left + CELL / 2, top - GAP), caption, fill=QUIET, font=plain, anchor="md", align="center", spacing=1
        )
        for row, view in enumerate(views):
            picture = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.NEAREST), (left, top + row * (CELL + GAP)))
    return np.asarray(sheet)
