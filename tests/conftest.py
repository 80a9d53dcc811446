"""Fixtures that every room's tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A GPU is hidden from tests whose claims are about the CPU (exact bits among them): all but `pytest -m gpu`."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


gc.disable()  # while modules are imported: what they hold stays


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Half a million objects of imported libraries are not looked through again and again: 6 % of the whole time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks of images and indices are kept in a folder of the tests' own, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real data sets beside the checkout; tests that use it are marked `realdata` and skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA
