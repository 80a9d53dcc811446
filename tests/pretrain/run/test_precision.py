"""Precision: auto follows the hardware, fp16 is for CUDA."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.run import precision

CPU = torch.device("cpu")


def test_auto_is_bf16_only_where_it_is_native(monkeypatch):
    monkeypatch.setattr(precision, "_native_bf16", lambda device: True)
    assert precision.choose_precision("auto", CPU).name == "bf16"
    monkeypatch.setattr(precision, "_native_bf16", lambda device: False)
    assert precision.choose_precision("auto", CPU).name == "fp32"


def test_autocast_computes_in_the_chosen_type():
    weights = torch.ones(4, 4)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with precision.choose_precision(name, CPU).autocast():
            assert (weights @ weights).dtype == dtype


def test_fp16_on_cpu_is_refused():
    with pytest.raises(ConfigError, match="bf16"):
        precision.choose_precision("fp16", CPU)


def test_sizes_that_the_bf16_kernel_gets_wrong_are_refused():
    bf16, fp32 = (precision.choose_precision(name, CPU) for name in ("bf16", "fp32"))
    with pytest.raises(ConfigError, match="views.patch_size=16"):
        precision.check_sizes(bf16, {"views.image_size": 64, "views.patch_size": 16})
    precision.check_sizes(bf16, {"views.image_size": 64, "views.patch_size": 17})
    precision.check_sizes(fp32, {"views.patch_size": 16})
