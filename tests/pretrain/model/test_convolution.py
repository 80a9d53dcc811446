"""Convolutions as matrix products: the same numbers, gradients and names, and only where the maps are small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model import convolution
from pretrain.model.convolution import MatrixConvolution, multiply_small_maps
from pretrain.model.encoder import ResNetEncoder
from tests.cases import each


@each(("kernel", "stride", "side"), [(1, 1, 3), (1, 2, 5), (3, 1, 1), (3, 1, 4), (3, 2, 1), (3, 2, 5)])
def test_a_product_is_the_convolution_and_so_are_its_gradients(kernel, stride, side):
    """Also for a 3x3 of stride 2 on one pixel, which torch's own bfloat16 kernel gets wrong (run/precision.py)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, side, side, dtype=torch.float64, generator=generator)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64, generator=generator)
    results = []
    for function in (
        lambda i, w: convolution._Multiply.apply(i, w, stride, kernel // 2),
        lambda i, w: F.conv2d(i, w, stride=stride, padding=kernel // 2),
    ):
        leaves = [tensor.clone().requires_grad_() for tensor in (images, weight)]
        result = function(*leaves)
        (result * torch.arange(result.numel(), dtype=torch.float64).view_as(result)).sum().backward()
        results.append([result, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_only_small_maps_of_many_weights_are_multiplied(monkeypatch):
    multiplied = []
    apply = convolution._Multiply.apply
    monkeypatch.setattr(convolution._Multiply, "apply", lambda *args: multiplied.append(args[1].shape) or apply(*args))
    encoder = ResNetEncoder("resnet18")
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    multiply_small_maps(encoder)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items()) and len(state) == 120
    assert isinstance(encoder.layer4[1].conv2, MatrixConvolution)
    images = torch.randn(64, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        encoder(images[:8])
        assert not multiplied  # float32 is left alone
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encoder(images)
    res4, res5 = [(256, 256, 3, 3)] * 3, [(512, 256, 3, 3), (512, 512, 3, 3), (512, 256, 1, 1), *[(512, 512, 3, 3)] * 2]
    assert multiplied == [*res4, *res5]


def test_in_bfloat16_a_network_of_products_is_as_near_to_float32_as_one_of_convolutions():
    torch.manual_seed(0)
    convolved = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.Conv2d(256, 64, 1, bias=False))
    images, errors = torch.randn(4, 256, 2, 2), []
    exact = torch.autograd.grad(convolved(images).square().sum(), list(convolved.parameters()))
    for products in (False, True):
        if products:
            multiply_small_maps(convolved)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = convolved(images).float().square().sum()
        found = torch.autograd.grad(loss, list(convolved.parameters()))
        errors.append(max(((a - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)))
    assert 0 < errors[1] < 1.5 * errors[0] < 0.03, errors
