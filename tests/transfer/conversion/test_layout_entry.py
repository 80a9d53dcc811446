"""The records of the table: the one container of a layout, and the contracts in Detectron2's units."""

from __future__ import annotations

import re

import pytest

from transfer.conversion.convert import AUTHOR
from transfer.conversion.layout_entry import FAIR_BGR, MSRA_BGR, Branch, Layout
from transfer.conversion.layouts import LAYOUTS
from transfer.conversion.layouts_libraries import OUR_AUTHOR
from transfer.conversion.names import NAMINGS


def test_our_author_is_the_one_that_the_converter_writes():
    assert f"__author__={AUTHOR}" == OUR_AUTHOR


def test_a_layout_has_one_container_or_none():
    one = Layout("x", "", "", (), {"a": Branch("a.", ("m",)), "b": Branch("b.", ("m",))})
    two = Layout("x", "", "", (), {"a": Branch("", ("m",)), "b": Branch("", ("n",))})
    apart = Layout("x", "", "", (), {"a": Branch("", ("m",), state=("n",))})
    assert (one.container, two.container, apart.container) == (("m",), None, None)


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.name for layout in LAYOUTS])
def test_every_entry_is_well_formed(layout):
    for pattern in (*layout.markers, *layout.absent, *layout.extra):
        re.compile(pattern)
    assert layout.naming in NAMINGS and layout.branches and layout.companion in (None, "timm", "huggingface")
    assert all(branch.prefix == "" or branch.prefix.endswith(".") for branch in layout.branches.values())


def test_bgr_contracts_are_round_figures_in_detectron2_s_units():
    assert [round(255 * value, 6) for value in MSRA_BGR.mean] == [103.53, 116.28, 123.675]
    assert [round(255 * value, 6) for value in MSRA_BGR.std] == [1.0, 1.0, 1.0]
    assert [round(255 * value, 6) for value in FAIR_BGR.std] == [57.375, 57.12, 58.395] and not FAIR_BGR.stride_in_1x1
