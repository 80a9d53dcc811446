"""The table: means and deviations by hand, retained shares by hand, claims that can fail; the sheet shows the pairs themselves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.good_views.moving_mnist.config import SceneConfig
from pretrain.good_views.moving_mnist.factors import PAPER, SHARINGS
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.report import (
    BREAK,
    CAPTION_LINES,
    CELL,
    GAP,
    LINE,
    MAX_FRAMES,
    draw_samples,
    summarise,
    to_markdown,
)

# Not read off PAPER: the table of the specification once more, so that a slip in one of them shows.
PAPER_TABLE = {
    "digit": (16.8, 13.6, 88.6),
    "background": (88.6, 16.1, 51.7),
    "position": (57.9, 3.95, 87.6),
    "digit+position+background": (88.8, 16.2, 53.9),
    "digit+background": (88.2, 16.3, 51.3),
    "position+background": (88.8, 15.9, 53.8),
    "digit+position": (14.5, 13.7, 88.7),
}


def cell(row, seed, figures, *, nats=1.0, view_gap=0.0):
    errors = dict(zip(("digit", "position", "background"), figures, strict=True))
    other = {task: value + view_gap for task, value in errors.items()}
    return {
        "row": row,
        "seed": seed,
        "task": None,
        "errors": {"sequence": errors, "image": other},
        "information": {"nats": nats, "ceiling": 4.0, "saturated": nats > 3},
    }


RANDOM_WEIGHTS = {"random weights": (75.0, 12.0, 85.0)}


def table_of(figures, seeds=(0, 1, 2), noise=0.1):
    """Figures of each seed, with a little noise of their own whose mean over the three seeds is 0."""
    rows = RANDOM_WEIGHTS | figures
    return summarise(
        [
            cell(row, seed, [value + noise * (1 + number / 8) * ((seed + number) % 3 - 1) for value in values])
            for number, (row, values) in enumerate(rows.items())
            for seed in seeds
        ]
    )


def test_means_and_deviations_over_seeds():
    results = [cell("digit", seed, (10 + 3 * seed, 5.0, 80.0), nats=1 + seed, view_gap=1) for seed in range(3)]
    summary = summarise(results)
    assert summary["rows"]["sequence"]["digit"]["digit"] == {"mean": 13, "std": 3, "num_seeds": 3}
    assert summary["rows"]["image"]["digit"]["digit"]["mean"] == 14
    assert summary["information"]["digit"] == {"mean": 2, "std": 1, "num_seeds": 3, "ceiling": 4.0, "saturated": False}


def test_the_papers_own_table_retains_what_the_paper_says():
    """digit+position: the digit stays whole, of the position a tenth; with the background shared nothing else is left."""
    table = table_of(PAPER_TABLE, noise=0.0)
    shares = table["retained"]["sequence"]
    assert shares["digit+position"]["digit"] == pytest.approx((73.25 - 14.5) / (73.25 - 16.8))
    assert shares["digit+position"]["position"] == pytest.approx((14.85 - 13.7) / (14.85 - 3.95))
    assert shares["digit+background"]["digit"] < 0
    assert shares["digit+background"]["background"] > 1
    assert shares["digit+position"] == pytest.approx(table["retained"]["paper (UNVERIFIED)"]["digit+position"])


def test_every_claim_holds_of_the_papers_own_table():
    claims = table_of(PAPER_TABLE)["claims"]["sequence"]
    assert len(claims) == 3 + 2 + 1 + 1 + 1
    assert all(claim["held"] and claim["found"].endswith("n = 3") for claim in claims)


def test_no_claim_is_told_by_one_seed_nor_by_seeds_that_scatter_more_than_they_differ():
    for table in (table_of(PAPER_TABLE, seeds=[0]), table_of(PAPER_TABLE, noise=40.0)):
        assert {claim["held"] for claim in table["claims"]["sequence"]} == {None}


def test_claims_fail_where_the_table_says_otherwise():
    """Position over digit, and a digit that a shared background does not hide."""
    turned = PAPER_TABLE | {"digit+position": (70.0, 4.0, 88.0), "digit+background": (16.0, 16.0, 80.0)}
    held = {claim["claim"]: claim["held"] for claim in table_of(turned)["claims"]["sequence"]}
    assert held["digit+position: digit dominates over position"] is False
    assert held["digit+background: background dominates over digit"] is False
    assert held["position+background: background dominates over position"] is True
    unlearned = PAPER_TABLE | {"digit": (88.0, 13.6, 88.6)}
    held = {claim["claim"]: claim["held"] for claim in table_of(unlearned)["claims"]["sequence"]}
    assert held["sharing the digit alone teaches the digit"] is False
    assert held["digit+position: digit dominates over position"] is None


def test_a_factor_that_random_weights_tell_as_well_is_not_taught():
    """Lower than in the other sharings, but no lower than without any training."""
    summary = table_of(PAPER_TABLE | {"digit": (55.0, 13.6, 88.6), "random weights": (54.0, 12.0, 85.0)})
    claim = summary["claims"]["sequence"][0]
    assert claim == {
        "claim": "sharing the digit alone teaches the digit",
        "held": False,
        "found": "digit error, %: 55.0; the best of the others 54.0 (random weights); n = 3",
    }
    without_control = summarise([cell(row, s, figures) for row, figures in PAPER_TABLE.items() for s in range(3)])
    assert without_control["claims"]["sequence"][0]["held"] is None


def test_rows_that_are_missing_leave_claims_untold():
    summary = table_of({"digit": PAPER_TABLE["digit"]})
    assert {claim["held"] for claim in summary["claims"]["image"]} == {None}
    assert summary["retained"]["image"] == {}
    assert "cannot be told" in to_markdown(summary, title="t")


def test_one_task_of_a_supervised_seed_fills_one_cell():
    results = [
        {"row": "supervised", "seed": seed, "task": task, "errors": {"sequence": {task: value}, "image": {task: value}}}
        for seed in range(2)
        for task, value in (("digit", 3.0), ("position", 1.0))
    ]
    rows = summarise(results)["rows"]["sequence"]["supervised"]
    assert rows["digit"]["num_seeds"] == 2 and "background" not in rows


def test_the_page_prints_our_figures_beside_the_papers():
    results = [cell("digit", seed, (20.0 + seed, 12.0, 85.0), nats=3.5) for seed in range(2)]
    lines = to_markdown(summarise(results), title="What is shared").splitlines()
    assert lines[0] == "# What is shared"
    assert (
        "| digit | 20.5 ± 0.7 | 12.0 ± 0.0 | 85.0 ± 0.0 | 3.50 ± 0.00 of 4.00 (saturated) | 16.8 / 13.6 / 88.6 |"
        in lines
    )
    assert any("UNVERIFIED" in line for line in lines)


def test_the_table_quotes_the_specification():
    for row, figures in PAPER_TABLE.items():
        assert (PAPER[row].digit, PAPER[row].position, PAPER[row].background) == figures


# The sheet


def place_of(sheet, row, column, *, num_frames_shown):
    left = GAP + column * (CELL + GAP) + (BREAK if column >= num_frames_shown else 0)
    top = GAP + CAPTION_LINES * LINE + row * (CELL + GAP)
    return sheet[top : top + CELL, left : left + CELL]


def enlarged(view):
    picture = Image.fromarray(np.ascontiguousarray(view.numpy().transpose(1, 2, 0)))
    return np.asarray(picture.resize((CELL, CELL), Image.Resampling.NEAREST))


@pytest.mark.parametrize(("num_frames", "shown"), [(3, [0, 1, 2]), (10, [0, 2, 4, 7, 9])])
def test_every_cell_shows_its_frame_or_second_view(worlds, num_frames, shown):
    maker = PairMaker(worlds.held_out, SceneConfig(num_frames=num_frames, background_size=72), 7)
    sheet = draw_samples(maker, num_pairs=2)
    assert len(shown) <= MAX_FRAMES
    for number, sharing in enumerate(SHARINGS):
        batch = maker(sharing, split="held_out", start=0, count=2)
        for row in range(2):
            shown_there = place_of(sheet, row, len(shown) + number, num_frames_shown=len(shown))
            assert np.array_equal(shown_there, enlarged(batch.view_2[row]))
            for column, frame in enumerate(shown):
                shown_there = place_of(sheet, row, column, num_frames_shown=len(shown))
                assert np.array_equal(shown_there, enlarged(batch.view_1[row, frame]))


def test_captions_are_written_above_every_column(worlds, scene):
    sheet = draw_samples(PairMaker(worlds.held_out, scene), num_pairs=1)
    caption = sheet[: GAP + CAPTION_LINES * LINE]
    for column in range(scene.num_frames + len(SHARINGS)):
        left = GAP + column * (CELL + GAP) + (BREAK if column >= scene.num_frames else 0)
        assert (caption[-2 * LINE :, left : left + CELL] < 150).any(), f"no caption above column {column}"
