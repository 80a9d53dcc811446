"""What a run shows while it runs: the progress bar, log.jsonl and TensorBoard.

Figures are read from the device every `log_every` steps and at the last one, and at no other step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.base.atomic import write_text
from pretrain.run.ranks import Ranks, mean_over_ranks


class Recorder:
    """Records on the main rank and takes part in the averaging on all. A context: closes files and bar however it ends.

    last: the newest averaged figures; after a resume, those that the log ends with.
    """

    def __init__(
        self, path: Path | None, *, from_step: int, num_steps: int, log_every: int, batch_size: int, ranks: Ranks
    ) -> None:
        """path: the run directory, None on ranks that do not write. num_steps: of the whole run. batch_size: global."""
        self._every, self._num_steps, self._batch_size, self._ranks = log_every, num_steps, batch_size, ranks
        self._log = StepLog(path, from_step=from_step) if path is not None else None
        self.last: dict[str, float] = self._log.last if self._log is not None else {}
        self._bar = tqdm(
            total=num_steps, initial=from_step, unit="step", desc="pre-training", disable=not ranks.is_main
        )
        self._clock, self._clock_step = time.perf_counter(), from_step

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if self._log is not None:
            self._log.close()

    def is_due(self, step: int) -> bool:
        """True for the steps whose figures are averaged over ranks and logged."""
        return step % self._every == 0 or step == self._num_steps

    def record(self, step: int, figures: Mapping[str, Tensor], *, epoch: float, learning_rate: float) -> None:
        """Step `step` (counted from 1) is done; `figures` are this rank's scalars. Called by every rank for every step."""
        self._bar.update()
        if not self.is_due(step):
            return
        values = mean_over_ranks(torch.stack([value.float() for value in figures.values()]), self._ranks)
        self.last = dict(zip(figures, values.tolist(), strict=True))
        now = time.perf_counter()
        speed = (step - self._clock_step) * self._batch_size / (now - self._clock)
        self._clock, self._clock_step = now, step
        self.last |= {"learning_rate": learning_rate, "images_per_second": speed}
        if self._log is not None:
            self._log.write({"step": step, "epoch": epoch, **self.last})
        self._bar.set_postfix({name: f"{self.last[name]:.3f}" for name in ("loss", "accuracy") if name in self.last})


class StepLog:
    """log.jsonl and TensorBoard, continued from `from_step`: entries that a lost stretch of the run left are dropped."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the writing rank needs it

        self._path = path / "log.jsonl"
        self.last: dict[str, float] = {}  # figures of the newest entry
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= from_step]
            write_text(self._path, "".join(f"{line}\n" for line in kept))
            if kept:
                self.last = {
                    name: value for name, value in json.loads(kept[-1]).items() if name not in ("step", "epoch")
                }
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(path / "tensorboard"), purge_step=from_step + 1)

    def write(self, entry: Mapping[str, float]) -> None:
        """Append one step's figures; `entry` holds "step"."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for name, value in entry.items():
            self._board.add_scalar(name, value, int(entry["step"]))

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill
