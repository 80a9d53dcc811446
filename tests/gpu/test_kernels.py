"""What pre-training does differently on a GPU: BatchNorm's fused kernels and the recorded key network, against the plain ones."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from torch import Tensor

from pretrain.base.signals import StopFlag
from pretrain.gpu_check.checks import deterministic
from pretrain.gpu_check.run import DETERMINISTIC_CUBLAS
from pretrain.gpu_check.sizes import MINIATURE, run_config, synthetic_batch
from pretrain.model import batchnorm
from pretrain.model.batchnorm import GroupedBatchNorm, fused_kernels
from pretrain.model.contrast import Contrast
from pretrain.run.ranks import Ranks
from pretrain.run.watch import Watch
from pretrain.state import build_state, contract_of, precision_of
from pretrain.train import train_step
from tests.cases import each

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and pytest -m gpu"),
]
CUDA = torch.device("cuda")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_CUBLAS)  # before the device is first used


@each("number_type, tolerance", [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_fused_batchnorm_is_the_plain_one_in_float64(
    number_type: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = fused_kernels(CUDA)
    assert kernels is not None, "the kernels do not work here; the warning above says why"
    for shape, groups in (((64, 64, 56, 56), 8), ((32, 2048, 7, 7), 2), ((64, 300), 4), ((30, 96, 9, 5), 3)):
        for relu, add in itertools.product((True, False), (True, False)):
            rows, other, gradient = (_rows(shape, seed=seed).to(number_type) for seed in range(3))
            with monkeypatch.context() as patch:
                patch.setattr(batchnorm, "fused_kernels", lambda device: None)
                before = _layer(shape, groups).double()(rows.double(), other.double() if add else None)
                gradient = gradient * (before.abs() > 1e-4)  # where rounding decides what the ReLU lets through, none
                plain = _everything(rows.double(), other.double(), gradient.double(), groups=groups, relu=relu, add=add)
            assert kernels.can_fuse(rows, other, groups=groups)
            fused = _everything(rows, other, gradient, groups=groups, relu=relu, add=add)
            for name, value in plain.items():
                deviation = float((fused[name] - value).abs().max() / value.abs().max())
                assert deviation < tolerance, (name, shape, groups, relu, add, deviation)


def _rows(shape: tuple[int, ...], *, seed: int) -> Tensor:
    rows = torch.randn(shape, generator=torch.Generator(CUDA).manual_seed(seed), device=CUDA) * 2
    return rows.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else rows


def _layer(shape: tuple[int, ...], groups: int) -> GroupedBatchNorm:
    layer = GroupedBatchNorm(shape[1], groups=groups).to(CUDA)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-2, 2, shape[1]))
        layer.bias.copy_(torch.linspace(1, -1, shape[1]))
    return layer


def _everything(
    rows: Tensor, other: Tensor, gradient: Tensor, *, groups: int, relu: bool, add: bool
) -> dict[str, Tensor]:
    layer = _layer(tuple(rows.shape), groups).to(torch.promote_types(rows.dtype, torch.float32))
    rows, other = rows.clone().requires_grad_(), other.clone().requires_grad_()
    result = layer(rows, other if add else None, relu=relu)
    result.backward(gradient)
    found = {"result": result, "rows": rows.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    found |= {"mean": layer.running_mean, "variance": layer.running_var} | ({"other": other.grad} if add else {})
    return {name: value.detach().double() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("method", ["moco_v2", "cmc_v2"])
def test_the_recorded_key_network_leaves_the_bits_of_the_called_one(method: str) -> None:
    with deterministic():
        recorded, called, other = (
            _trained(method, recorded=recorded, steps=steps) for recorded, steps in ((True, 7), (False, 7), (False, 6))
        )
    assert recorded.keys() == called.keys()
    assert not [name for name, value in recorded.items() if not torch.equal(value, called[name])]
    assert [
        name for name, value in recorded.items() if not torch.equal(value, other[name])
    ]  # the control: a step fewer


def _trained(method: str, *, recorded: bool, steps: int) -> dict[str, Tensor]:
    config = run_config(method, MINIATURE, device="cuda", cuda_graph=recorded)
    precision, ranks = precision_of(config, Ranks()), Ranks()
    state = build_state(config, contract_of(config), precision=precision, ranks=ranks)
    watch = Watch(StopFlag(), ranks, precision.device)
    for step in range(steps):
        batch = synthetic_batch(config, device=precision.device, seed=step)
        train_step(state, batch, learning_rate=0.03, momentum=0.9, precision=precision, ranks=ranks, watch=watch)
    watch.settle()
    assert isinstance(state.method, Contrast) and recorded is (state.method._replay._replay is not None)
    return {name: value.clone() for name, value in state.method.state_dict().items()}
