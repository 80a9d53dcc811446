"""The layouts of checkpoints that can be converted: one entry each, recognised by content.

In: the nested dictionaries of a weight file. Out: nothing; this is data. `transfer/sources.py` reads it.
To add a layout: one `Layout` in transfer/layouts_methods.py or transfer/layouts_libraries.py, one builder in
tests/transfer/checkpoints.py; the tests there run over both tables.
"""

from __future__ import annotations

from transfer.layout_entry import Branch, Layout, Path
from transfer.layouts_libraries import DETECTRON2, FRAMEWORKS, LIBRARIES, OURS
from transfer.layouts_methods import METHODS

LAYOUTS: tuple[Layout, ...] = OURS + METHODS + FRAMEWORKS + LIBRARIES + DETECTRON2
AUTOMATIC: tuple[Layout, ...] = tuple(layout for layout in LAYOUTS if not layout.asked_only)

__all__ = ["AUTOMATIC", "LAYOUTS", "Branch", "Layout", "Path"]
