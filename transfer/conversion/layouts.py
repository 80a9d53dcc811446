"""The layouts of checkpoints that can be converted: one entry each, recognised by content.

In: the nested dictionaries of a weight file. Out: nothing; this is data. `transfer/conversion/sources.py` reads it.
To add a layout: one `Layout` in transfer/conversion/layouts_methods.py or transfer/conversion/layouts_libraries.py, one builder in
tests/transfer/conversion/checkpoints.py; the tests there run over both tables.
"""

from __future__ import annotations

from transfer.conversion.layout_entry import Branch, Layout, Path
from transfer.conversion.layouts_libraries import DETECTRON2, FRAMEWORKS, LIBRARIES, OURS
from transfer.conversion.layouts_methods import METHODS

LAYOUTS: tuple[Layout, ...] = OURS + METHODS + FRAMEWORKS + LIBRARIES + DETECTRON2
AUTOMATIC: tuple[Layout, ...] = tuple(layout for layout in LAYOUTS if not layout.asked_only)

__all__ = ["AUTOMATIC", "LAYOUTS", "Branch", "Layout", "Path"]
