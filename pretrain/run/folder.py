"""The run directory: what a run was, what it printed, what it left. One writer at a time.

It holds config.yaml, record.json (pretrain/base/record.py), log.jsonl, curves.png, tensorboard/, checkpoints/ and, with trackers,
trackers.json, of a Slurm job slurm/, after a loss that is not finite nonfinite.json. A folder of an older version has
environment*.json, command.txt and result.json instead of the record; its run goes on, or counts as finished.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from pretrain.base.atomic import LOCK, is_temporary, lock_folder, remove_temporaries, write_text
from pretrain.base.errors import ConfigError
from pretrain.base.record import RECORD, OpenRecord, Record, read_record
from pretrain.base.same_run import differences, require_same
from pretrain.base.strict import merge
from pretrain.config import RunConfig, default_values, keep_generators, to_plain
from pretrain.run.checkpoint import CHECKPOINT_DIR
from pretrain.run.slurm import FOLDER as SLURM

# A resumed run may change these: they do not change what is computed (see RuntimeConfig).
FREE_TO_CHANGE = ("runtime.", "monitor.", "data.num_workers", "data.root", "data.skip_unreadable")
OLD_RESULT = "result.json"  # of a finished run, in place of the record
CONFIG = "config.yaml"  # written before the images are looked at
# What a start writes that took no step; none of it is true of another configuration.
OF_A_START = ("log.jsonl", "curves.png", "nonfinite.json", "trackers.json", "images.json")

logger = logging.getLogger(__name__)


class RunDir:
    """An output folder held by this process (a lock that the kernel drops however the process ends).

    As a context it leaves nothing behind when a new run ends before `begin`: a mistyped folder of images costs no output
    directory; and it ends the record, as that does it as a context.

    record: open from `begin` on.
    """

    record: OpenRecord

    def __init__(
        self, path: Path, config: Any, *, resume: bool, free_to_change: tuple[str, ...] = FREE_TO_CHANGE
    ) -> None:
        """Create or re-enter `path`. Raises ConfigError when it is in use, foreign, not writable, or of another run.

        A pre-training that has saved nothing yet takes another configuration: what ended it may be what was mistyped.

        config: a RunConfig, or the frozen dataclass of another command. free_to_change: beginnings of its keys that a
        resumed run may change.
        """
        self.path = path
        self._config = config
        self._free = free_to_change
        self._ending = contextlib.ExitStack()
        self.checkpoints = path / CHECKPOINT_DIR
        self._created = not path.exists()
        self._lock = lock_folder(path, LOCK)
        try:
            self._enter(config, resume=resume)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.__exit__(kind, error, trace)
        if not self._begun:
            for name in (CONFIG, LOCK):
                (self.path / name).unlink(missing_ok=True)
        self.close()
        if not self._begun and self._created:
            with contextlib.suppress(OSError):  # something else is in it: the error that ended the run counts
                self.path.rmdir()

    def begin(self, record: Record) -> OpenRecord:
        """What was asked for can be run, and there is something to do: the folder stays from here on, with `record` in it."""
        keep_generators(self._config, self.path)
        self.record = self._ending.enter_context(
            OpenRecord(self.path / RECORD, self._with_first_start(record), goes_on=True)
        )
        self._begun = True
        return self.record

    def _with_first_start(self, record: Record) -> Record:
        """`record` with what an older version wrote of the earlier starts, where there is no record of them yet."""
        environment, commands = self.path / "environment.json", self.path / "command.txt"
        if not environment.exists() or not commands.exists() or (self.path / RECORD).exists():
            return record
        first = json.loads(environment.read_text(encoding="utf-8"))
        typed = commands.read_text(encoding="utf-8").splitlines()
        return replace(record, environment={"first": first}, commands=(*typed, *record.commands))

    def _enter(self, config: Any, *, resume: bool) -> None:
        path = self.path
        existing = {entry.name for entry in path.iterdir() if not is_temporary(entry)} - {LOCK, SLURM}
        self._begun = bool(existing)
        if existing and CONFIG not in existing:
            (path / LOCK).unlink()
            raise ConfigError(
                f"the output directory {path} holds other files ({', '.join(sorted(existing)[:3])}); name an empty one"
            )
        if existing and not resume:
            raise ConfigError(
                f"the output directory {path} already holds a run; pass --resume auto to continue it, or name another"
            )
        remove_temporaries(path)
        if existing:
            self._check_same(config)
        else:
            write_text(path / CONFIG, yaml.safe_dump(to_plain(config), sort_keys=False))

    def _check_same(self, config: Any) -> None:
        # A key that is younger than the run was not asked about then: what was done is its default.
        before = merge(default_values(config), yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8")))
        changed = differences(before, to_plain(config), free=self._free)
        if changed and isinstance(config, RunConfig) and not self.has_checkpoint and self.result is None:
            logger.info(
                "%s holds no checkpoint yet: its run begins again with another configuration (%s)",
                self.path,
                "; ".join(changed),
            )
            self._begin_again(config)
        else:
            require_same(before, to_plain(config), place=self.path, free=self._free)

    def _begin_again(self, config: Any) -> None:
        """Forget what was seen of the earlier configuration, its random weights among it. The record goes on: it was a start."""
        for name in OF_A_START:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        write_text(self.path / CONFIG, yaml.safe_dump(to_plain(config), sort_keys=False))

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything was trained that a further start goes on from; a damaged checkpoint counts."""
        return any(self.checkpoints.glob("step_*"))

    @property
    def result(self) -> dict[str, Any] | None:
        """The finished run's details and {"final": figures}, None while it is not finished."""
        if (self.path / RECORD).exists():
            record = read_record(self.path / RECORD)
            return {**record.details, "final": dict(record.figures)} if record.status == "done" else None
        path = self.path / OLD_RESULT
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
