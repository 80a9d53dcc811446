"""Invertible generators on pixels: three channels in, three out, of which the first is one view and the other two the other.

Source: docs/specification.md 4 (RevNet- or NICE-style couplings of channel 1 against channels 2:3).

A block changes both halves, one after the other, so that it undoes by itself:

    first  <- couple(first,  by f(second))        additive:  y = x + t              volume preserving, log det 0
    second <- couple(second, by h(first))         affine:    y = x exp(s) + t       log det = sum of s over pixels

f and h are two convolutions with a ReLU between them; s = tanh, so that no step scales by more than e. The last convolution of
each starts at zero: an untrained generator is its colour space, and a game starts from the raw views (ours; the source does not
say how its couplings start).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pretrain.base.errors import UserError
from pretrain.views.colour import colour_space

# Largest deviation of x from inverse(forward(x)) in normalised units that a generator to be kept may have: 0.07 of a grey level.
INVERSE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GeneratorConfig:
    """The shape of a generator.

    space: a name in colour.py, normalised by its mean and std, that the couplings start from.
    coupling: "additive" preserves volume, "affine" does not.
    layer_mode: which blocks see their neighbours ("all_1x1": none).
    num_blocks: couplings of both halves.
    hidden_width: channels between a coupling's two convolutions.
    """

    space: str = "rgb"
    coupling: Literal["additive", "affine"] = "additive"
    layer_mode: Literal["all_1x1", "first_3x3", "last_3x3"] = "all_1x1"
    num_blocks: int = 4
    hidden_width: int = 32

    def __post_init__(self) -> None:
        colour_space(self.space)
        if self.num_blocks < 1 or self.hidden_width < 1:
            raise ValueError(
                f"num_blocks and hidden_width expected at least 1, found {self.num_blocks} and {self.hidden_width}"
            )

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel size of each block's convolutions."""
        large = {"all_1x1": None, "first_3x3": 0, "last_3x3": self.num_blocks - 1}[self.layer_mode]
        return tuple(3 if block == large else 1 for block in range(self.num_blocks))


class Coupling(nn.Module):
    """Changes `changed` channels by what `read` channels say."""

    def __init__(self, *, read: int, changed: int, hidden_width: int, kernel: int, affine: bool) -> None:
        super().__init__()
        self.affine = affine
        padding = kernel // 2
        # Border pixels repeat: zeros would be a colour, and a different one in every space.
        self.layers = nn.Sequential(
            nn.Conv2d(read, hidden_width, kernel, padding=padding, padding_mode="replicate"),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_width, changed * (1 + affine), kernel, padding=padding, padding_mode="replicate"),
        )
        last = self.layers[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, values: Tensor, *, by: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, changed, H, W), by (B, read, H, W) -> (changed values, log |det| of every image (B,))."""
        terms = self._terms(by)
        if not self.affine:
            return values + terms, terms.new_zeros(terms.shape[0])
        log_scale, shift = _scale_and_shift(terms)
        return values * log_scale.exp() + shift, log_scale.sum((1, 2, 3))

    def inverse(self, values: Tensor, *, by: Tensor) -> Tensor:
        """The values that `forward` changed into these, given the same `by`."""
        terms = self._terms(by)
        if not self.affine:
            return values - terms
        log_scale, shift = _scale_and_shift(terms)
        return (values - shift) * (-log_scale).exp()

    def _terms(self, by: Tensor) -> Tensor:
        first, last = self.layers[0], self.layers[2]
        assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
        assert first.bias is not None and last.bias is not None
        if first.kernel_size != (1, 1):
            return self.layers(by)
        # One matrix product over all pixels: a 1x1 convolution of two channels takes five times as long on a CPU (16 ms
        # against 87 ms for 128 images of 32 px, forward and backward).
        pixels = by.transpose(0, 1).flatten(1)
        hidden = torch.addmm(first.bias[:, None], first.weight.flatten(1), pixels).relu_()
        terms = torch.addmm(last.bias[:, None], last.weight.flatten(1), hidden)
        return terms.view(len(terms), by.shape[0], *by.shape[2:]).transpose(0, 1)


def _scale_and_shift(terms: Tensor) -> tuple[Tensor, Tensor]:
    raw_scale, shift = terms.chunk(2, dim=1)
    return torch.tanh(raw_scale), shift


class Block(nn.Module):
    """Both halves, one after the other: channel 1 by channels 2:3, then those by the new channel 1."""

    def __init__(self, *, hidden_width: int, kernel: int, affine: bool) -> None:
        super().__init__()
        self.first = Coupling(read=2, changed=1, hidden_width=hidden_width, kernel=kernel, affine=affine)
        self.second = Coupling(read=1, changed=2, hidden_width=hidden_width, kernel=kernel, affine=affine)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (values, log |det| (B,))."""
        first, second = values[:, :1], values[:, 1:]
        first, log_first = self.first(first, by=second)
        second, log_second = self.second(second, by=first)
        return torch.cat((first, second), dim=1), log_first + log_second

    def inverse(self, values: Tensor) -> Tensor:
        """Undo `forward`, the second coupling first."""
        first, second = values[:, :1], values[:, 1:]
        second = self.second.inverse(second, by=first)
        first = self.first.inverse(first, by=second)
        return torch.cat((first, second), dim=1)


class Generator(nn.Module):
    """Couplings on the normalised channels of a colour space. State-dict names: blocks.N.{first,second}.layers.{0,2}.*."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.space = colour_space(config.space)
        affine = config.coupling == "affine"
        self.blocks = nn.ModuleList(
            Block(hidden_width=config.hidden_width, kernel=kernel, affine=affine) for kernel in config.kernels
        )

    def forward(self, values: Tensor) -> Tensor:
        """Normalised channels of the space (B, 3, H, W) -> learned channels (B, 3, H, W)."""
        return self.with_log_determinant(values)[0]

    def with_log_determinant(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(learned channels (B, 3, H, W), log |det d output / d values| of every image (B,)); 0 for additive couplings."""
        log_determinant = values.new_zeros(values.shape[0])
        for block in self.blocks:
            values, log_scale = block(values)
            log_determinant = log_determinant + log_scale
        return values, log_determinant

    def inverse(self, learned: Tensor) -> Tensor:
        """Learned channels -> normalised channels of the space, (B, 3, H, W)."""
        for block in reversed(self.blocks):
            assert isinstance(block, Block)
            learned = block.inverse(learned)
        return learned

    def prepare(self, rgb: Tensor) -> Tensor:
        """RGB in [0, 1] -> what `forward` takes."""
        return self.space.normalize(self.space.to_space(rgb))

    def from_rgb(self, rgb: Tensor) -> Tensor:
        """RGB in [0, 1] (B, 3, H, W) -> learned channels."""
        return self(self.prepare(rgb))

    def to_rgb(self, learned: Tensor) -> Tensor:
        """Learned channels -> RGB; nothing is clipped, so that channels changed by hand may leave [0, 1]."""
        return self.space.to_rgb(self.space.denormalize(self.inverse(learned)))


def split_views(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of views [specification 4]: channel 1 of one crop's channels, channels 2:3 of the other's.

    first, second: (B, 3, H, W) -> (B, 1, H, W), (B, 2, H, W). Give the same tensor twice for both views of one crop.
    """
    return first[:, :1], second[:, 1:]


@torch.no_grad()
def inverse_error(generator: nn.Module, values: Tensor) -> float:
    """Largest |values - inverse(forward(values))|, in normalised units; infinite where anything is not finite."""
    difference = (values - generator.inverse(generator(values))).abs().max()  # type: ignore[operator]
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def require_invertible(generator: nn.Module, values: Tensor, *, tolerance: float = INVERSE_TOLERANCE) -> float:
    """`inverse_error`, or a UserError where it is above `tolerance`: views that lost or copied something are no split."""
    error = inverse_error(generator, values)
    if error > tolerance:
        raise UserError(
            f"the generator does not undo itself: expected x = inverse(forward(x)) within {tolerance:g}, found {error:.3g}. "
            "Its scales have grown too far: lower the learning rate, or pass generator.coupling=additive"
        )
    return error
