"""The input contract survives the door."""

from __future__ import annotations

import pytest

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError


def test_a_contract_survives_writing_and_reading():
    contract = InputContract(channel_order="BGR", mean=(0.1, 0.2, 0.3), stride_in_1x1=True)
    assert InputContract.from_dict(contract.to_dict()) == contract


def test_a_missing_or_unknown_field_is_refused():
    values = InputContract().to_dict()
    with pytest.raises(CheckpointError, match="mean"):
        InputContract.from_dict({name: value for name, value in values.items() if name != "mean"})
    with pytest.raises(CheckpointError, match="gamma"):
        InputContract.from_dict({**values, "gamma": 1})
