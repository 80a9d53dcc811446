"""Transfer: a checkpoint in, a linear readout, a detector, an AP table and a report out.

`import transfer` is enough for Detectron2 to build and load this project's C4 detectors (DefaultPredictor, its own train_net.py):
their region head is registered as soon as Detectron2 is imported, before or after this line.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_REGISTRIES = "detectron2.modeling"  # once this package is imported, heads can be registered


class _RegisterHeads(importlib.abc.MetaPathFinder):
    """Imports transfer.detect.heads right after Detectron2's modeling package; importing Detectron2 here would cost every
    command of this package its second."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _REGISTRIES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                importlib.import_module("transfer.detect.heads")

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if _REGISTRIES in sys.modules:
    importlib.import_module("transfer.detect.heads")
else:
    sys.meta_path.insert(0, _RegisterHeads())
