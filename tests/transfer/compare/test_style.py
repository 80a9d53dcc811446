"""The style sheet loads nothing and cannot end its own element."""

from __future__ import annotations

from transfer.compare.style import STYLE_SHEET


def test_the_style_sheet_loads_nothing_from_outside():
    assert not any(word in STYLE_SHEET for word in ("url(", "@import", "http", "//", "<"))


def test_the_style_sheet_is_balanced_and_knows_paper():
    assert STYLE_SHEET.count("{") == STYLE_SHEET.count("}") and "@media print" in STYLE_SHEET
