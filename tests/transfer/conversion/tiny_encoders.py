"""Encoders a sixteenth as wide as the real ones: as many tensors, a thousandth of the bytes.

`TINY` holds two more entries for the table of encoders; the fixture `tiny_architectures` puts them in. Detectron2 builds no
narrow ResNet-18: what is converted is a tiny ResNet-50.
"""

from __future__ import annotations

import functools

import pytest

from pretrain.base.architecture import ARCHITECTURES, Architecture
from tests.transfer.conversion.checkpoints import State, encoder_state

TINY = {
    "tiny18": Architecture(bottleneck=False, layers=(2, 2, 2, 2), base_channels=4),
    "tiny50": Architecture(bottleneck=True, layers=(3, 4, 6, 3), base_channels=4),
}


@functools.cache
def tiny_state(arch: str = "tiny18", seed: int = 0) -> State:
    """An encoder's state, shared between tests: never to be changed in place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, arch, TINY[arch])
        return encoder_state(arch, seed)
