"""The couplings undo themselves, count their volume, split without leaking, and a fault in any of it is found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError, UserError
from pretrain.views.generator import Generator, GeneratorConfig, inverse_error, require_invertible, split_views
from tests.cases import each

KINDS = [(coupling, mode) for coupling in ("additive", "affine") for mode in ("all_1x1", "first_3x3", "last_3x3")]


def played(seed: int = 0, **config) -> Generator:
    """A generator whose weights are far from the start, as after a game."""
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(**config))
    for parameter in generator.parameters():
        fan_in = parameter[0].numel() if parameter.ndim == 4 else 4
        nn.init.normal_(parameter, std=0.7 / fan_in**0.5)
    return generator


def images(count: int = 4, size: int = 12, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("coupling", "layer_mode"), KINDS)
def test_the_inverse_is_exact(coupling: str, layer_mode: str) -> None:
    for space in ("rgb", "lab", "ydbdr"):
        generator = played(coupling=coupling, layer_mode=layer_mode, space=space, hidden_width=8)
        values = generator.prepare(images())
        assert (generator(values) - values).abs().max() > 0.1  # it does something
        assert inverse_error(generator, values) < 1e-5
        assert (generator.to_rgb(generator.from_rgb(images())) - images()).abs().max() < 1e-4


@each(("coupling", "layer_mode"), KINDS)
def test_log_determinant_is_autograd_s(coupling: str, layer_mode: str) -> None:
    generator = played(coupling=coupling, layer_mode=layer_mode, hidden_width=4, num_blocks=3).double()
    values = generator.prepare(images(1, 3).double())
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: generator(flat.view(1, 3, 3, 3)).flatten(), values.flatten()
    )
    log_determinant = generator.with_log_determinant(values)[1].detach()
    assert float(log_determinant) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-9, abs=1e-9)
    assert (abs(float(log_determinant)) < 1e-12) is (coupling == "additive")


def test_pixels_go_through_the_same_layers_as_a_convolution_s() -> None:
    coupling = played(hidden_width=8, coupling="affine").blocks[1].second
    by = torch.rand(3, 1, 5, 7)
    assert torch.allclose(coupling._terms(by), coupling.layers(by), atol=1e-6)


def test_an_untrained_generator_is_its_colour_space() -> None:
    generator = Generator(GeneratorConfig(space="lab", coupling="affine"))
    assert torch.equal(generator.from_rgb(images()), generator.prepare(images()))


@each(("layer_mode", "kernels"), [("all_1x1", (1, 1, 1)), ("first_3x3", (3, 1, 1)), ("last_3x3", (1, 1, 3))])
def test_layer_modes_say_who_sees_its_neighbours(layer_mode: str, kernels: tuple[int, ...]) -> None:
    config = GeneratorConfig(layer_mode=layer_mode, num_blocks=3)
    assert config.kernels == kernels
    generator = played(layer_mode=layer_mode, num_blocks=3, hidden_width=4)
    one = generator.prepare(images(1))
    other = one.clone()
    other[..., 5, 5] += 1
    reached = ((generator(other) - generator(one)).abs().amax((0, 1)) > 1e-7).nonzero()
    spread = int((reached - 5).abs().max())
    assert (spread > 0) is (3 in kernels)


def test_each_view_comes_from_its_own_crop_and_its_own_channels() -> None:
    first, second = images(seed=1).requires_grad_(), images(seed=2).requires_grad_()
    one, two = split_views(first, second)
    assert one.shape[1] == 1 and two.shape[1] == 2
    on_first, on_second = torch.autograd.grad(two.square().sum(), (first, second), allow_unused=True, retain_graph=True)
    assert on_first is None and (on_second[:, 0] == 0).all() and (on_second[:, 1:] != 0).any()
    on_first, on_second = torch.autograd.grad(one.square().sum(), (first, second), allow_unused=True)
    assert on_second is None and (on_first[:, 1:] == 0).all() and (on_first[:, 0] != 0).any()


class Leaking(Generator):
    """Planted fault: channel 1 is written over channel 2, so view 2 holds view 1. No map with an inverse can do that."""

    def forward(self, values: Tensor) -> Tensor:
        learned = super().forward(values)
        return torch.cat((learned[:, :1], learned[:, :1], learned[:, 2:]), dim=1)


class SimultaneousHalves(Generator):
    """Planted fault: both halves read the old values, which `inverse` cannot undo."""

    def forward(self, values: Tensor) -> Tensor:
        for block in self.blocks:
            first, second = values[:, :1], values[:, 1:]
            values = torch.cat((block.first(first, by=second)[0], block.second(second, by=first)[0]), dim=1)
        return values


@pytest.mark.parametrize("fault", [Leaking, SimultaneousHalves])
def test_a_generator_that_leaks_or_cannot_be_undone_fails_the_inverse_check(fault: type[Generator]) -> None:
    sound = played(hidden_width=8)
    values = sound.prepare(images())
    assert require_invertible(sound, values) < 1e-5
    faulty = fault(sound.config)
    faulty.load_state_dict(sound.state_dict())
    with pytest.raises(UserError, match="does not undo itself"):
        require_invertible(faulty, values)


def test_a_generator_that_is_not_finite_fails_the_inverse_check() -> None:
    generator = played(hidden_width=8)
    generator.blocks[0].first.layers[0].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="found inf"):
        require_invertible(generator, generator.prepare(images()))


def test_unknown_spaces_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ydbdr'"):
        GeneratorConfig(space="ydrdb")
    with pytest.raises(ValueError, match="at least 1"):
        GeneratorConfig(num_blocks=0)
