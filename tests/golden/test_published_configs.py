"""Each configuration that PyContrast, MoCo and others published is one of our families with an initialisation, key by key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg

from pretrain.base.contract import InputContract
from pretrain.base.same_run import flat
from tests.cases import each
from transfer.conversion.sidecar import detectron2_settings
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT, shipped_runs
from transfer.detect.inits import Init, apply_init, parse_init

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = PUBLISHED["runs"]
DEFAULTS = flat(get_cfg())


def plain(value: Any) -> Any:
    """Tuples as lists, numbers as one type: what JSON keeps."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def resolved(name: str) -> dict[str, Any]:
    """What our family and initialisation give where it is not Detectron2's default."""
    run = RUNS[name]
    config = load_detector_config(CONFIG_ROOT / run["family"])
    row, _, place = run["init"].partition("=")
    if place == "FILE":  # converted weights, as their sidecar describes them
        init = Init(row, "FILE", detectron2_settings(run["arch"], InputContract()))
    else:
        init = parse_init(run["init"])
    apply_init(config, init, frozenset())
    return {key: value for key, value in flat(config).items() if plain(value) != plain(DEFAULTS[key])}


def deliberate(name: str) -> dict[str, dict[str, Any]]:
    """Keys in which ours differs on purpose."""
    return {
        key: entry
        for key, entry in PUBLISHED["deliberate"].items()
        if re.search(entry["runs"], name) and entry["published"] in ("*", RUNS[name]["values"].get(key))
    }


def differences(name: str, ours: dict[str, Any]) -> list[str]:
    """Lines on every key that is not as published and not on purpose so."""
    wanted = {**RUNS[name]["values"], **{key: entry["ours"] for key, entry in deliberate(name).items()}}
    return [
        f"{key}: {wanted.get(key, 'the default')} published, {ours.get(key, 'the default')} here"
        for key in sorted({*wanted, *ours})
        if plain(wanted.get(key, DEFAULTS[key])) != plain(ours.get(key, DEFAULTS[key]))
    ]


@each("name", RUNS)
def test_a_published_configuration_is_a_family_with_an_initialisation(name: str) -> None:
    assert differences(name, resolved(name)) == []


def test_all_that_was_published_is_here_and_every_departure_is_used_and_explained() -> None:
    counts = {source: sum(name.startswith(source) for name in RUNS) for source in PUBLISHED["sources"]}
    assert counts == {"pycontrast": 31, "moco": 4, "mmselfsup": 16, "vissl": 1, "ssl-transfer": 2}
    ours = {path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()} - {
        run["family"] for run in RUNS.values()
    }
    assert ours == {  # families that nobody published, as their headers say
        "coco/R_18_FPN_1x.yaml", "coco/R_34_FPN_1x.yaml", "coco/R_50_FPN_probe_1x.yaml", "demo/R_18_FPN.yaml", "voc/R_50_FPN_24k.yaml",
    }  # fmt: skip
    for key, entry in PUBLISHED["deliberate"].items():
        assert len(entry["reason"]) > 20 and any(key in deliberate(name) for name in RUNS)


@pytest.mark.parametrize("name", ["pycontrast/X_101_FPN_2x_infomin", "moco/pascal_voc_R_50_C4_24k"])
def test_control_any_changed_value_is_found(name: str) -> None:
    """Of a key that was published, and of one that was left at its default."""
    ours = resolved(name)
    for key in {*ours, "SOLVER.WEIGHT_DECAY", "MODEL.RPN.NMS_THRESH"} - {"MODEL.WEIGHTS"}:
        (line,) = differences(name, {**ours, key: "another"})
        assert line.startswith(f"{key}: ")
        assert key not in ours or len(differences(name, {k: v for k, v in ours.items() if k != key})) == 1
