"""What a tower sees: CMC's YDbDr with its own constants, on the device, whatever the autocast."""

from __future__ import annotations

import numpy as np
import torch

from pretrain.base.contract import InputContract
from pretrain.model.channels import NUM_CHANNELS, channels_of
from pretrain.views.pipeline import normalize
from tests.cases import each

# SECAM's matrix as printed, three decimals, and the reference's constants [specification 1.6].
PRINTED = np.array([[0.299, 0.587, 0.114], [-0.450, -0.883, 1.333], [-1.333, 1.116, 0.217]])
MEAN, STD = np.array([0.457, -0.082, -0.052]), np.array([0.500, 1.331, 1.333])


def pictures():
    return torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_towers_see_ydbdr_as_the_reference_normalises_it():
    images, contract = pictures(), InputContract()
    values = np.einsum("ij,...jhw->...ihw", PRINTED, images.numpy() / 255)
    expected = (values - MEAN[:, None, None]) / STD[:, None, None]
    found = torch.cat([channels_of(images, tower, contract) for tower in ("Y", "DbDr")], dim=-3)
    assert np.abs(found.numpy() - expected).max() < 2e-3  # the matrix is printed with three decimals
    grey = torch.full((1, 3, 4, 4), 128, dtype=torch.uint8)
    torch.testing.assert_close(channels_of(grey, "Y", contract), torch.full((1, 1, 4, 4), (128 / 255 - 0.457) / 0.5))
    chroma = torch.tensor([0.082 / 1.331, 0.052 / 1.333]).view(1, 2, 1, 1).expand(1, 2, 4, 4)  # a grey has none
    torch.testing.assert_close(channels_of(grey, "DbDr", contract), chroma, rtol=1e-5, atol=1e-6)


def test_rgb_is_the_input_contract_s():
    assert torch.equal(channels_of(pictures(), "RGB", InputContract()), normalize(pictures(), InputContract()))


@each("tower", NUM_CHANNELS)
def test_autocast_does_not_round_pixels(tower):
    plain = channels_of(pictures(), tower, InputContract())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(channels_of(pictures(), tower, InputContract()), plain)
    assert plain.shape[-3] == NUM_CHANNELS[tower]
