"""Encoders a sixteenth as wide as the real ones: as many tensors, a thousandth of the bytes.

In: nothing. Out: `TINY`, two more entries for the table of encoders (the fixture `tiny_architectures` puts them in), and their
states. Tests that compute with a network use real ones.
"""

from __future__ import annotations

import functools

from pretrain.base.architecture import Architecture
from tests.transfer.conversion.checkpoints import State, encoder_state

TINY = {
    "tiny18": Architecture(bottleneck=False, layers=(2, 2, 2, 2), base_channels=4),
    "tiny50": Architecture(bottleneck=True, layers=(3, 4, 6, 3), base_channels=4),
}


@functools.cache
def tiny_state(arch: str = "tiny18", seed: int = 0) -> State:
    """An encoder's state, shared between tests: never to be changed in place."""
    return encoder_state(arch, seed)
