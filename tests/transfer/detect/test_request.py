"""What a command asks for before anything is read. What needs data is tested with the run (test_run.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from transfer.detect.request import import_modules


def test_a_module_that_is_not_there_is_named_and_a_broken_one_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--import no_such_module: no module of that name"):
        import_modules(["no_such_module"])
    (tmp_path / "broken_module_of_mine.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_modules(["broken_module_of_mine"])
