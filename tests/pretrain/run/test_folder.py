"""The run directory: one writer, one configuration, a log without lost stretches."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import yaml

from pretrain.base import record as record_module
from pretrain.base.errors import ConfigError, Terminated
from pretrain.base.record import Record, read_record
from pretrain.run.folder import RunDir

RECORD = Record("pretraining", {"config": {"seed": 0}}, {}, {"run": 0}, commands=("python tools/pretrain.py",))


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


def saved_in(folder, name="step_00000002.pt"):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / name).touch()


@pytest.mark.parametrize("kept", [None, "step_00000002.pt", "step_00000002.pt.damaged", "result"])
def test_a_run_that_has_saved_nothing_begins_again_with_another_configuration_and_no_other_does(
    tiny_config, tmp_path, caplog, kept
):
    caplog.set_level("INFO")
    smaller = tiny_config(optimizer={"batch_size": 4})
    with RunDir(tmp_path, tiny_config(), resume=False) as run:
        run.begin(RECORD)
        if kept == "result":
            run.record.finish({"loss": 1.0})
    (tmp_path / "log.jsonl").write_text('{"step": 0, "knn": 20.0}\n')
    (tmp_path / "tensorboard").mkdir()
    if kept is not None and kept != "result":
        saved_in(tmp_path, kept)
    if kept is not None:
        with pytest.raises(ConfigError, match="optimizer.batch_size: 8 there, 4 now"):
            RunDir(tmp_path, smaller, resume=True)
        assert (tmp_path / "log.jsonl").exists() and not caplog.text
        return
    RunDir(tmp_path, tiny_config(runtime={"log_every_steps": 5}), resume=True).close()  # the same run
    assert (tmp_path / "log.jsonl").exists() and not caplog.text
    with RunDir(tmp_path, smaller, resume=True) as run:
        run.begin(replace(RECORD, commands=("again",)))
    assert "holds no checkpoint yet" in caplog.text and "optimizer.batch_size: 8 there, 4 now" in caplog.text
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["optimizer"]["batch_size"] == 4
    assert not (tmp_path / "log.jsonl").exists() and not (tmp_path / "tensorboard").exists()
    assert read_record(tmp_path / "record.json").commands == (*RECORD.commands, "again")
    saved_in(tmp_path)
    RunDir(tmp_path, smaller, resume=True).close()


def test_how_a_run_is_computed_may_change_on_resume(tiny_config, tmp_path):
    RunDir(tmp_path, tiny_config(), resume=False).close()
    saved_in(tmp_path)
    RunDir(tmp_path, tiny_config(data={"num_workers": 3}, runtime={"log_every_steps": 5}), resume=True).close()
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate"):
        RunDir(tmp_path, tiny_config(optimizer={"learning_rate": 0.1}), resume=True)


# The keys of a run's config.yaml before there were other memories, towers, optimisers, stems and a monitor.
FIRST_KEYS = {
    "data": ("root", "num_workers", "skip_unreadable"),
    "seed": (),
    "views": ("recipe", "image_size", "patch_size", "crop_scale", "blur_kernel", "blur_sigma", "jitter_strength"),
    "encoder": ("arch",),
    "method": (
        *("name", "head", "feature_dim", "queue_size", "temperature", "momentum", "jigsaw", "jigsaw_weight"),
        *("jigsaw_fraction", "batchnorm_images"),
    ),
    "optimizer": (
        *("batch_size", "epochs", "learning_rate", "momentum", "weight_decay", "schedule", "decay", "milestones"),
        *("warmup_epochs", "warmup_start"),
    ),
    "runtime": ("device", "precision", "channels_last", "log_every_steps", "keep_every_epochs", "timeout_s"),
}


def as_first_written(values):
    """Plain values of a run as its first version wrote them."""
    return {
        group: {key: values[group][key] for key in keys} if keys else values[group]
        for group, keys in FIRST_KEYS.items()
    }


def test_a_run_of_a_version_with_fewer_keys_goes_on_with_their_defaults(tiny_config, tmp_path):
    config = tiny_config()
    RunDir(tmp_path, config, resume=False).close()
    first = as_first_written(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first))
    saved_in(tmp_path)
    RunDir(tmp_path, config, resume=True).close()
    with pytest.raises(ConfigError, match="optimizer.name: 'sgd' there, 'lars' now"):  # control
        RunDir(tmp_path, tiny_config(optimizer={"name": "lars"}), resume=True)


def test_every_start_that_has_something_to_do_keeps_what_it_ran_on(tiny_config, tmp_path, monkeypatch):
    for number, start in enumerate(("first", "second", "third")):
        monkeypatch.setattr(record_module, "environment", lambda start=start: {"torch": start})
        with RunDir(tmp_path, tiny_config(), resume=number > 0) as run:
            run.begin(replace(RECORD, commands=(start,)))
    with RunDir(tmp_path, tiny_config(), resume=True):  # looked into, nothing to do
        pass
    found = read_record(tmp_path / "record.json")
    assert found.environment == {"first": {"torch": "first"}, "latest": {"torch": "third"}}
    assert found.commands == ("first", "second", "third")


def test_starts_of_an_older_version_are_taken_into_the_record_and_its_end_is_the_run_s(tiny_config, tmp_path):
    RunDir(tmp_path, tiny_config(), resume=False).close()
    (tmp_path / "environment.json").write_text('{"torch": "old"}')
    (tmp_path / "command.txt").write_text("tools/pretrain.py a\ntools/pretrain.py b\n")
    for _ in range(2):
        with RunDir(tmp_path, tiny_config(), resume=True) as run:
            assert run.result is None
            run.begin(replace(RECORD, commands=("c",)))
    found = read_record(tmp_path / "record.json")
    assert found.environment["first"] == {"torch": "old"} != found.environment["latest"]
    assert found.commands == ("tools/pretrain.py a", "tools/pretrain.py b", "c", "c")  # taken once
    (tmp_path / "result.json").write_text('{"steps": 3, "final": {"loss": 1.0}}')
    with RunDir(tmp_path, tiny_config(), resume=True) as run:
        assert run.result is None  # the record counts where there is one
        (tmp_path / "record.json").unlink()
        assert run.result == {"steps": 3, "final": {"loss": 1.0}}


def test_the_record_says_how_the_run_ended(tiny_config, tmp_path):
    for error, status in ((Terminated("saved"), "stopped"), (ConfigError("not finite"), "failed")):
        with pytest.raises(type(error)), RunDir(tmp_path, tiny_config(), resume=True) as run:
            run.begin(RECORD)
            raise error
        assert read_record(tmp_path / "record.json").status == status
    with RunDir(tmp_path, tiny_config(), resume=True) as run:
        run.begin(RECORD)
        run.record.finish({"loss": 1.0}, details={"steps": 3})
    assert run.result == {"steps": 3, "final": {"loss": 1.0}}


def test_what_a_killed_write_left_is_removed_and_is_nobody_s_file(tiny_config, tmp_path):
    (tmp_path / ".config.yaml.4711.tmp").touch()  # killed in its very first write
    (tmp_path / "run.lock").touch()
    with RunDir(tmp_path, tiny_config(), resume=False) as run:
        run.begin(RECORD)
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
        run.begin(RECORD)
        raise ZeroDivisionError
    kept = {"config.yaml", "record.json", "run.lock"}
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
        run.begin(RECORD)
    with RunDir(tmp_path, more, resume=True, free_to_change=("seeds",)):
        pass
    with pytest.raises(ConfigError, match="another configuration"):
        RunDir(tmp_path, more, resume=True)
