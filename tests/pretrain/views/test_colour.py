"""Every space against scikit-image and against its own inverse, on a grid over the RGB cube."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.views.colour import COLOUR_SPACES, colour_space, linear_from_srgb, srgb_from_linear
from tests.cases import each

INVERSE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def cube() -> torch.Tensor:
    """(1, 3, 41, 41 * 41): a grid over the cube, its corners, edges and greys included."""
    axis = torch.linspace(0, 1, 41)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).reshape(1, 3, 41, -1)


@pytest.mark.parametrize("name", COLOUR_SPACES)
def test_the_inverse_is_exact(cube: torch.Tensor, name: str) -> None:
    space = COLOUR_SPACES[name]
    assert (space.to_rgb(space.to_space(cube)) - cube).abs().max() < INVERSE_TOLERANCE


@pytest.mark.parametrize("name", sorted(set(COLOUR_SPACES) - {"rgb"}))
def test_values_are_those_of_scikit_image(cube: torch.Tensor, name: str) -> None:
    color = pytest.importorskip("skimage.color")
    theirs = getattr(color, f"rgb2{name}")(cube.double().numpy(), channel_axis=1)
    ours = COLOUR_SPACES[name].to_space(cube.double()).numpy()
    unit = np.asarray(COLOUR_SPACES[name].std)[:, None, None]
    assert np.abs(ours - theirs).max(axis=(0, 2, 3)).max() < 2e-3 * unit.max()
    if name == "hsv":  # 0 and 1 are one hue
        return
    assert (np.abs(ours - theirs) / unit).max() < 1e-3  # scikit-image rounds its YUV and YDbDr tables to three digits


def test_white_black_and_red_have_their_textbook_values() -> None:
    def of(name: str, *rgb: float) -> list[float]:
        return COLOUR_SPACES[name].to_space(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)).flatten().tolist()

    assert of("lab", 1, 1, 1) == pytest.approx([100, 0, 0], abs=0.02)
    assert of("lab", 0, 0, 0) == pytest.approx([0, 0, 0], abs=1e-9)
    assert of("lab", 1, 0, 0) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert of("hsv", 0, 0, 1) == pytest.approx([2 / 3, 1, 1])
    assert of("ycbcr", 1, 1, 1) == pytest.approx([235, 128, 128])
    assert of("ydbdr", 1, 0, 0) == pytest.approx([0.299, -0.450, -1.333], abs=1e-3)
    assert of("yuv", 0, 0, 1)[1] == pytest.approx(0.436)


@each("name", COLOUR_SPACES)
def test_linear_says_whether_a_mixture_maps_to_the_mixture(name: str) -> None:
    space = COLOUR_SPACES[name]
    one, two = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = space.to_space(0.3 * one + 0.7 * two) - 0.3 * space.to_space(one) - 0.7 * space.to_space(two)
    assert bool(difference.abs().max() < 1e-9) is space.linear


@pytest.mark.parametrize("name", sorted(set(COLOUR_SPACES) - {"rgb", "ydbdr"}))
def test_normalised_channels_fill_minus_one_to_one(cube: torch.Tensor, name: str) -> None:
    space = COLOUR_SPACES[name]
    values = space.normalize(space.to_space(cube))
    assert values.amin((0, 2, 3)).tolist() == pytest.approx([-1, -1, -1], abs=0.02)
    assert values.amax((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.02)
    assert torch.allclose(space.denormalize(values), space.to_space(cube), atol=1e-4)


def test_batches_and_single_images_agree(cube: torch.Tensor) -> None:
    batch = torch.rand(2, 5, 3, 6, 7)
    for space in COLOUR_SPACES.values():
        assert torch.allclose(space.to_space(batch)[1, 2], space.to_space(batch[1, 2]), rtol=1e-5, atol=1e-4)


def test_colours_outside_the_cube_stay_finite() -> None:
    wild = torch.tensor([-3.0, 0.0, 4.0]).view(3, 1, 1).requires_grad_()
    for space in COLOUR_SPACES.values():
        values = space.to_rgb(space.to_space(wild))
        assert values.isfinite().all()
        (gradient,) = torch.autograd.grad(values.sum(), wild)
        assert gradient.isfinite().all(), space.name


def test_gamma_curves_are_inverse_to_each_other() -> None:
    values = torch.linspace(-0.5, 1.5, 2001, dtype=torch.float64)
    assert torch.allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=2e-7)


@each(("asked", "near"), [("LAB ", "lab"), ("ycrcb", "ycbcr"), ("ydrdb", "ydbdr")])
def test_unknown_space_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        colour_space(asked)
    assert colour_space(near.upper()).name == near
