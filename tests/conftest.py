"""Fixtures that every room's tests share."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.base import environment


def pytest_configure(config: pytest.Config) -> None:
    """A GPU is hidden from tests whose claims are about the CPU (exact bits among them): all but `pytest -m gpu`."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


gc.disable()  # while modules are imported: what they hold stays


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Half a million objects of imported libraries are not looked through again and again: 6 % of the whole time.

    And pytest adds its handlers to each logger that does not propagate, six times a test: torch has some 55 of them.
    """
    gc.freeze()
    gc.enable()
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Checks of images and indices are kept in a folder of the tests' own, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOMIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_surroundings() -> Iterator[None]:
    """No waiting for the disk, some 8 ms a file (tests of durability put their own `os.fsync` in), and git is asked once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        patch.setattr(environment, "_git_state", functools.cache(environment._git_state))
        yield


@pytest.fixture(scope="module", autouse=True)
def pickles_read_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pickles are read in this process: a child takes some 25 ms. Where the child itself is asked, a file is marked `child`."""
    if "torch" not in sys.modules or request.node.get_closest_marker("child"):
        yield
        return
    from pretrain.base.weight_files import torch_files
    from tests.transfer.conversion.weight_fuzz import ask_here

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_files, "ask_child", ask_here)
        yield


SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real data sets beside the checkout; tests that use it are marked `realdata` and skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA
