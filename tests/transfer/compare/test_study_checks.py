"""A study is checked before its first stage: what a later one would refuse, against the shipped studies, which are sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.base.errors import UserError
from tests.tools.in_process import run_tool_here
from tests.transfer.sweep_bench import write_images, write_labelled_image
from transfer.compare.stages import ROOT
from transfer.compare.study_checks import check_study
from transfer.compare.study_config import Expectation, load_study
from transfer.compare.study_figures import Verdict

DEMO = ROOT / "configs" / "study" / "demo.yaml"


OTHERS_DATA = ("own_data", "caltech_bccd", "caltech_coco")  # they name images that a checkout does not hold
SHIPPED = sorted(path for path in (ROOT / "configs" / "study").glob("*.yaml") if path.stem not in OTHERS_DATA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_passes(path: Path) -> None:
    check_study(load_study(path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pretrain.overrides=[optimizer.epoch=1]"], "pretrain: .*did you mean `optimizer.epochs`"),
        (["pretrain.overrides=['data.root={data}/x', encoder.arch=resnet50]"], "(?s)detect: .*MODEL.RESNETS.DEPTH is 18, must be 50.*the family that fits: "),
        (["readout.overrides=[epoch=1]"], "readout: .*did you mean `epochs`"),
        (["readout.arch=resnet17"], "readout: .*found 'resnet17'"),
        (["detect.overrides=[SOLVER.MAX_ITERS, '5']"], "detect: unknown key SOLVER.MAX_ITERS"),
        (["detect.overrides=[SOLVER.MAX_ITER]"], "detect: .*has no partner"),
        (["detect.overrides=[MODEL.ROI_HEADS.NAME, NoSuchHeads]"], "detect: .*cannot build this detector.*NoSuchHeads"),
        (["detect.train_data=coco:absent.json:absent", "detect.test_data=coco:absent.json:absent"], "detect: no image folder at absent"),
    ],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_refused(overrides: list[str], message: str) -> None:
    study = load_study(DEMO, overrides)
    with pytest.raises(UserError, match=message):
        check_study(study)


def test_data_and_weights_from_outside_are_read(tmp_path: Path) -> None:
    boxes = [write_labelled_image(tmp_path / name) for name in ("boxes_train", "boxes_test")]
    for split in ("train", "val"):
        write_images(tmp_path / "labelled" / split, 2)
    own = [
        "data=null", "pretrain=null", "expect=[]", "inits=[{name: random, weights: none}]",
        f"detect.train_data={boxes[0]}", f"detect.test_data={boxes[1]}", f"readout.data={tmp_path}/labelled",
    ]  # fmt: skip
    check_study(load_study(DEMO, own))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    weights = f"inits=[{{name: mine, weights: {tmp_path}/weights.pth}}]"
    with pytest.raises(UserError, match="readout: .*weights.pth"):
        check_study(load_study(DEMO, [*own[:3], weights, *own[4:]]))
    with pytest.raises(UserError, match="detect: .*weights.pth"):
        check_study(load_study(DEMO, [*own[:3], weights, *own[4:-1], "readout=null"]))
    (tmp_path / "labelled" / "val" / "a").rename(tmp_path / "labelled" / "val" / "c")
    with pytest.raises(UserError, match="readout: .*only in train/: a"):
        check_study(load_study(DEMO, own))
    labels = tmp_path / "boxes_test" / "boxes.json"
    content = json.loads(labels.read_text())
    labels.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "mug"}]}))
    with pytest.raises(UserError, match="detect: .*mug"):
        check_study(load_study(DEMO, [*own[:-1], "readout=null"]))


def test_the_command_ends_with_exit_code_2_and_starts_nothing(tmp_path: Path) -> None:
    found = run_tool_here(
        "study.py", "--config-file", DEMO, "--output-dir", tmp_path / "out", "readout.overrides=[epoch=1]"
    )
    assert found.returncode == 2 and "did you mean `epochs`" in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("outcome", "code"), [("held", 0), ("undecided", 1), ("FAILED", 1)])
def test_check_asks_for_every_expectation_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any, code: int
) -> None:
    expectation = Expectation("readout/top1", higher="simclr", lower="random")
    verdict = Verdict(expectation, outcome, None, "")
    monkeypatch.setattr("transfer.compare.study.run_study", lambda *arguments, **options: (0, (verdict,)))
    words = ("study.py", "--config-file", DEMO, "--output-dir", tmp_path / "out")
    assert run_tool_here(*words, "--check").returncode == code
    assert run_tool_here(*words).returncode == 0


def test_the_baseline_can_be_named_on_the_command_line(tmp_path: Path) -> None:
    words = ("study.py", "--config-file", DEMO, "--output-dir", tmp_path / "out", "--dry-run", "--baseline")
    assert "--baseline simclr" in run_tool_here(*words, "simclr").stdout
    refused = run_tool_here(*words, "supervised")
    assert refused.returncode == 2 and "expected one of the inits ['random', 'simclr']" in refused.stderr
