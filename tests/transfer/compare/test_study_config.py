"""Study files: what is refused, and that the shipped ones are sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from transfer.compare.stages import plan_stages
from transfer.compare.study_config import ROOT, load_study

SHIPPED = sorted((ROOT / "configs" / "study").glob("*.yaml"))
SMALLEST = """
data: {}
inits: [{name: random, weights: none}]
readout: {data: "{data}/unlabelled", arch: resnet18}
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_plans(path: Path) -> None:
    config = load_study(path)
    assert plan_stages(config)[-1].name == "report"
    assert {"source", "hardware", "expected", "command"} <= {
        line[2:].split(" ")[0] for line in path.read_text().splitlines()
    }


def test_there_are_shipped_studies() -> None:
    assert {"demo.yaml", "smoke.yaml", "study.yaml"} <= {path.name for path in SHIPPED}


def test_the_study_holds_infomin_against_random_in_every_seed() -> None:
    config = load_study(ROOT / "configs" / "study" / "study.yaml")
    assert config.detect is not None and len(config.detect.seeds) >= 3
    claims = [(e.metric, e.higher, e.lower, e.every_seed) for e in config.expect]
    assert ("bbox/AP50", "infomin", "random", True) in claims


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("redout.data=x", "did you mean `readout`"),
        ("inits=[{name: a/b, weights: none}]", "letters, digits"),
        ("inits=[{name: a, weights: none}, {name: a, weights: none}]", "different names"),
        ("inits=[]", "one or more"),
        ("inits=[{name: a, weights: pretrained}]", "need a `pretrain` part"),
        ("inits=[{name: a, weights: nowhere.pth}]", "no file at"),
        ("readout.seeds=[1,1]", "seeds"),
        ("readout.seeds=[]", "seeds"),
        ("readout.data='{dta}/x'", "found {dta}"),
        ("data=null", "no `data` part"),
        ("readout.config_file=configs/linear/absent.yaml", "no file at"),
        ("readout=null", "nothing to measure"),
        ("pretrain.config_file=configs/pretrain/absent.yaml", "no file at"),
        ("expect=[{metric: box/AP, higher: random, lower: random}]", "expected one of bbox/AP"),
        ("expect=[{metric: bbox/AP, higher: random, lower: random}]", "not measured"),
        ("expect=[{metric: readout/top1, higher: random, lower: other}]", "'other'"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALLEST)
    load_study(path)  # the control: sound without the override
    with pytest.raises(ConfigError, match=message):
        load_study(path, [override])
