"""Rows that are fed differently: said where they are, not where they are not or where nothing is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.base.contract import InputContract
from tests.transfer.conftest import write_detection, write_linear
from transfer.compare.results import Run, read_run
from transfer.compare.seen_input import input_notes

RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS": {"STRIDE_IN_1X1": False},
}
BGR = {**RGB, "INPUT.FORMAT": "BGR", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0], "MODEL.RESNETS": {"STRIDE_IN_1X1": True}}


def test_rows_that_see_different_inputs_are_named_with_what_they_see(tmp_path: Path) -> None:
    def run(name: str, settings: dict[str, Any]) -> Run:
        return read_run(write_detection(tmp_path / name, init=name, seed=0, ap50=1.0, settings=settings))

    random, mine, theirs = run("random", RGB), run("mine", RGB), run("theirs", BGR)
    assert input_notes({"random": [random], "mine": [mine]}) == []
    (note,) = input_notes({"random": [random], "mine": [mine], "theirs": [theirs]})
    assert "random, mine: RGB, mean 123.7 116.3 103.5, std 58.4 57.12 57.38, stride in the 3x3" in note
    assert "theirs: BGR" in note and "std 1 1 1, stride in the 1x1" in note and "one of the input too" in note
    unknown = run("unknown", {})
    assert input_notes({"random": [random], "unknown": [unknown]}) == []


def test_a_readout_says_what_it_fed_its_encoder(tmp_path: Path) -> None:
    rows = {}
    for name, contract in (("random", InputContract()), ("theirs", InputContract("BGR", std=(1.0, 1.0, 1.0)))):
        details = {"input": contract.to_dict()}
        rows[name] = [read_run(write_linear(tmp_path / name, init=name, seed=0, top1=1.0, details=details))]
    (note,) = input_notes(rows)
    assert "random: RGB" in note and "theirs: BGR" in note
