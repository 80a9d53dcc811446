"""Atomic files: the new content, or the old, and nothing beside it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal

import pytest

from pretrain.base.atomic import atomic_file, lock_folder, remove_temporaries, write_json
from pretrain.base.errors import ConfigError


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with (
        lock_folder(tmp_path / "new", "run.lock"),
        pytest.raises(ConfigError, match="in use by another running process"),
    ):
        lock_folder(tmp_path / "new", "run.lock")
    lock_folder(tmp_path / "new", "run.lock").close()  # control: free again
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write to the output directory"):
        lock_folder(tmp_path / "file", "run.lock")


def test_a_lock_is_free_at_once_when_its_holder_is_killed_and_a_process_that_it_forked_lives_on(tmp_path):
    def forked(action):
        child = os.fork()
        if child == 0:
            action()
            os._exit(0)
        return child

    said, say = os.pipe()

    def work():
        os.write(say, os.getpid().to_bytes(4, "big"))
        signal.pause()

    def hold():
        lock = lock_folder(tmp_path, "run.lock")
        forked(work)
        signal.pause()
        lock.close()

    holder = forked(hold)
    worker = int.from_bytes(os.read(said, 4), "big")
    try:
        with pytest.raises(ConfigError, match="in use"):  # control: it is held, and the worker did not let go of it
            lock_folder(tmp_path, "run.lock")
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        lock_folder(tmp_path, "run.lock").close()
        os.kill(worker, 0)  # it does live on
    finally:
        os.kill(worker, signal.SIGKILL)


def test_only_what_a_killed_write_left_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "kept.json"):
        (left,) = tmp_path.iterdir()  # the name that a write has until it is published
        raise ZeroDivisionError
    (tmp_path / "checkpoints").mkdir()
    for name in (left.name, "checkpoints/.step_00000003.pt.4711.tmp", "notes.tmp", ".notes.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoints", "notes.tmp", ".notes.tmp"}


def test_a_file_system_without_locks_is_not_called_a_folder_in_use(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match="has no file locks"):
        lock_folder(tmp_path, "run.lock")
