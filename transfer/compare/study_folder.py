"""A study's folder: which stages are done, from what, and where everything lies.

In: a folder and `Stage` values. Out: whether a stage can be reused, its command line, room for its next run.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.atomic import lock_folder, write_json
from pretrain.base.errors import ConfigError, DataError
from transfer.compare.stages import CHECKPOINT, Stage
from transfer.compare.study_config import ROOT


@dataclass(frozen=True)
class Record:
    """What is known of a stage's last run. fingerprint: of its command and files. inputs: token of each needed stage.

    token: names this very result, empty until the stage has finished; a stage that is run again gets a new one, so
    that what was made from the old result is made again too. seconds: how long it took.
    """

    fingerprint: str
    inputs: dict[str, str]
    token: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder, and its records of stages."""

    path: Path
    root: Path = ROOT

    def record_path(self, stage: Stage) -> Path:
        """Where a stage's record is kept."""
        return self.path / ".stages" / f"{stage.name}.json"

    def log_path(self, stage: Stage) -> Path:
        """What a stage's command printed."""
        return self.path / "logs" / f"{stage.name}.log"

    def record(self, stage: Stage) -> Record | None:
        """The stage's record, None where it never ran here (or the record cannot be read)."""
        try:
            return Record(**json.loads(self.record_path(stage).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def wanted(self, stage: Stage, tokens: Mapping[str, str]) -> Record:
        """What the stage's record must say for its result to be reused, token and seconds aside."""
        return Record(stage.fingerprint(), {name: tokens[name] for name in stage.needs})

    def is_done(self, stage: Stage, tokens: Mapping[str, str]) -> bool:
        """True when the stage finished with this command on these very inputs and its result is still there."""
        record = self.record(stage)
        if record is None or not record.token or not (self.path / stage.result).is_file():
            return False
        return dataclasses.replace(record, token="", seconds=0.0) == self.wanted(stage, tokens)

    def command(self, stage: Stage) -> list[str]:
        """The stage's command line, with paths as short as the working directory allows. Raises DataError for a result
        of pre-training that names no checkpoint."""
        places = {"{output}": shown(self.path), "{root}": shown(self.root)}
        words = []
        for word in stage.command:
            word = CHECKPOINT.sub(lambda match: shown(self._checkpoint(self.path / match[1])), word)
            for placeholder, path in places.items():
                word = word.replace(placeholder + "/", "" if path == "." else path + "/").replace(placeholder, path)
            words.append(word)
        return [shown(Path(sys.executable)), *words]

    def _checkpoint(self, run: Path) -> Path:
        path = run / "result.json"
        if not path.exists():  # asked for a plan before pre-training has run
            return run / "checkpoints" / "LAST.pt"
        try:
            return run / str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected the key `checkpoint`, found {error!r}") from None

    def prepare(self, stage: Stage, wanted: Record) -> None:
        """Room for a run: what another command left is removed; what this one left is kept if it can go on from it.

        Raises ConfigError when the stage's folder holds files that no study put there.
        """
        folder, before = self.path / stage.folder, self.record(stage)
        if folder.exists() and before is None and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files that this command did not make; name another --output-dir")
        same = before is not None and before == wanted
        if folder.exists() and not (stage.resumes and same):
            shutil.rmtree(folder)
        for path in (self.record_path(stage), self.log_path(stage), folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.record_path(stage), dataclasses.asdict(wanted))

    def finish(self, stage: Stage, wanted: Record, seconds: float) -> None:
        """Record that the stage has finished."""
        token = uuid.uuid4().hex
        write_json(
            self.record_path(stage), dataclasses.asdict(dataclasses.replace(wanted, token=token, seconds=seconds))
        )


@contextmanager
def open_folder(path: Path, *, root: Path = ROOT) -> Iterator[StudyFolder]:
    """Create or re-enter a study's folder and hold it. Raises ConfigError when it is in use or cannot be written."""
    path = path.absolute()
    with lock_folder(path, ".lock"):
        yield StudyFolder(path, root)


def shown(path: Path) -> str:
    """A path as a person at the present working directory would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
