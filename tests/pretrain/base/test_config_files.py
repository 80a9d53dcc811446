"""Shipped configuration files are found from any folder; what is not there is named with what there is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pretrain.base import config_files
from pretrain.base.config_files import find_config, shipped_configs
from pretrain.base.errors import ConfigError

SMOKE = shipped_configs() / "pretrain" / "smoke.yaml"


@pytest.mark.parametrize("name", ["smoke", "smoke.yaml", "pretrain/smoke", "configs/pretrain/smoke.yaml", str(SMOKE)])
def test_one_file_by_many_names_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(Path(name), "pretrain") == SMOKE


def test_a_file_of_the_user_s_goes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "smoke.yaml").touch()
    assert find_config(Path("smoke.yaml"), "pretrain") == Path("smoke.yaml")
    assert find_config(Path("~/smoke.yaml"), "pretrain") == tmp_path / "smoke.yaml"


def test_the_kinds_are_looked_through_in_order():
    assert find_config(Path("small_64px"), "pretrain", "linear") == shipped_configs() / "linear" / "small_64px.yaml"
    with pytest.raises(ConfigError, match="no configuration file at small_64px"):
        find_config(Path("small_64px"), "pretrain")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smok.yaml", r"did you mean smoke\.yaml\?; shipped ones: infomin_r50_100ep, .*smoke"),
        ("smok", r"did you mean smoke\.yaml\?"),
        ("mine/run.yml", r"did you mean mine/runs\.yaml\?"),
        ("gone/run.yaml", r"the folder gone does not exist either"),
    ],
)
def test_a_missing_file_is_named_with_the_nearest_one_and_the_list(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "runs.yaml").touch()
    with pytest.raises(ConfigError, match=message):
        find_config(Path(name), "pretrain")


def test_an_installed_package_carries_them_inside(tmp_path, monkeypatch):
    module = tmp_path / "pretrain" / "base" / "config_files.py"
    shutil.copytree(shipped_configs(), tmp_path / "pretrain" / "configs")
    monkeypatch.setattr(config_files, "__file__", str(module))
    assert find_config(Path("smoke"), "pretrain") == tmp_path / "pretrain" / "configs" / "pretrain" / "smoke.yaml"
