"""The run directory: one writer, one configuration, a log without lost stretches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from pretrain.base.errors import ConfigError
from pretrain.run import folder
from pretrain.run.folder import RunDir


def test_a_second_process_is_refused_while_the_first_runs(tiny_config, tmp_path):
    RunDir(tmp_path / "run", tiny_config(), resume=False).close()
    script = "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run" / "run.lock")], stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="in use by another running process"):
            RunDir(tmp_path / "run", tiny_config(), resume=True)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    RunDir(tmp_path / "run", tiny_config(), resume=True).close()  # control: a killed holder leaves no stale lock


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_named(tiny_config, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot write"):
        RunDir(tmp_path / "run", tiny_config(), resume=False)


def test_a_file_in_place_of_the_directory_is_named(tiny_config, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="cannot write to the output directory"):
        RunDir(tmp_path / "run", tiny_config(), resume=False)


def test_how_a_run_is_computed_may_change_on_resume(tiny_config, tmp_path):
    RunDir(tmp_path, tiny_config(), resume=False).close()
    RunDir(tmp_path, tiny_config(data={"num_workers": 3}, runtime={"log_every_steps": 5}), resume=True).close()
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate"):
        RunDir(tmp_path, tiny_config(optimizer={"learning_rate": 0.1}), resume=True)


def test_every_start_that_has_something_to_do_keeps_what_it_ran_on(tiny_config, tmp_path, monkeypatch):
    for number, start in enumerate(("first", "second", "third")):
        monkeypatch.setattr(folder, "environment", lambda start=start: {"torch": start})
        with RunDir(tmp_path, tiny_config(), resume=number > 0) as run:
            run.begin()
    with RunDir(tmp_path, tiny_config(), resume=True):  # looked into, nothing to do
        pass
    names = ("environment.json", "environment_2.json", "environment_3.json")
    assert [json.loads((tmp_path / name).read_text())["torch"] for name in names] == ["first", "second", "third"]
    assert len((tmp_path / "command.txt").read_text().splitlines()) == 3


def test_what_a_killed_write_left_is_removed_and_is_nobody_s_file(tiny_config, tmp_path):
    (tmp_path / ".config.yaml.4711.tmp").touch()  # killed in its very first write
    (tmp_path / "run.lock").touch()
    with RunDir(tmp_path, tiny_config(), resume=False) as run:
        run.begin()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step_00000003.pt.4711.tmp").write_bytes(b"half a checkpoint")
    RunDir(tmp_path, tiny_config(), resume=True).close()
    assert not list(tmp_path.rglob(".*"))


def test_a_foreign_folder_is_left_as_it_was(tiny_config, tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / ".thesis.tex.4711.tmp").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        RunDir(tmp_path, tiny_config(), resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", ".thesis.tex.4711.tmp"}


def test_a_run_that_cannot_begin_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path / "new", tiny_config(), resume=False):
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path / "empty", tiny_config(), resume=False):
        raise ZeroDivisionError
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_that_has_begun_stays_however_it_ends(tiny_config, tmp_path):
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path / "run", tiny_config(), resume=False) as run:
        run.begin()
        raise ZeroDivisionError
    kept = {"config.yaml", "environment.json", "command.txt", "run.lock"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == kept
    with pytest.raises(ZeroDivisionError), RunDir(tmp_path / "run", tiny_config(), resume=True):
        raise ZeroDivisionError  # going on with a run: nothing of it is removed
    assert {path.name for path in (tmp_path / "run").iterdir()} == kept


@dataclass(frozen=True)
class Games:
    """The configuration of another command."""

    seeds: tuple[int, ...]


def test_another_command_says_which_of_its_keys_may_change(tmp_path):
    first, more = Games(seeds=(0,)), Games(seeds=(0, 1))
    with RunDir(tmp_path, first, resume=False, free_to_change=("seeds",)) as run:
        run.begin()
    with RunDir(tmp_path, more, resume=True, free_to_change=("seeds",)):
        pass
    with pytest.raises(ConfigError, match="another configuration"):
        RunDir(tmp_path, more, resume=True)
