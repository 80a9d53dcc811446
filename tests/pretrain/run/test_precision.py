"""Precision: auto follows the hardware, fp16 is for CUDA."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.run import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32"), ({}, "fp32")],
)
def test_auto_on_the_cpu_is_bf16_only_where_the_processor_computes_it(monkeypatch, capabilities, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.choose_precision("auto", CPU).name == name


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu_is_bf16_from_ampere_on(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.choose_precision("auto", torch.device("cuda", 0)).name == name


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
        precision.check_patch_size(bf16, 16)
    precision.check_patch_size(bf16, 17)
    precision.check_patch_size(fp32, 16)
