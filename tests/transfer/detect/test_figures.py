"""The figures of a run as a table."""

from __future__ import annotations

from transfer.detect.figures import figures_table


def test_figures_are_a_table_of_the_three_figures_people_quote() -> None:
    table = figures_table({"bbox/AP": 12.345, "bbox/AP50": 30.0, "bbox/AP75": None, "bbox/APs": 1.0, "segm/AP": 0.5})
    assert [line.split() for line in table] == [
        ["AP", "AP50", "AP75"],
        ["boxes", "12.35", "30.00", "-"],
        ["masks", "0.50", "-", "-"],
    ]
    assert figures_table({}) == []
