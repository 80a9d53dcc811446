"""What a run shows while it runs: the progress bar, log.jsonl and TensorBoard, and the trackers that were asked for.

Figures are read from the device every `log_every` steps and at the last one, and at no other step. An entry of the log has step,
epoch, the method's figures, learning_rate, and

information_bound   ln(K + 1) - loss_instance, nats (pretrain/run/representation.py)
images_per_second   of all ranks, without the monitor's time
data_wait           share of the time in which a rank waited for its next batch, mean over ranks; on a GPU some of that wait may
                    hide behind work that is still going on
data_wait_ms        the same, milliseconds a step
eta_seconds         until the last step, at the pace of this start, what the monitor took before its first step left out

or, where the monitor has measured, its figures. Warnings of pretrain/run/diagnosis.py are logged once.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretrain.base.atomic import write_text
from pretrain.run.ranks import Ranks, mean_over_ranks
from pretrain.run.representation import information_bound

T = TypeVar("T")
PASSING = ("eta_seconds", "data_wait_ms")  # say nothing of a run that has ended
Entry = dict[str, float]


class Recorder:
    """Records on the main rank and takes part in the averaging on all. A context: closes files and bar however it ends.

    final: the figures of the run's last step, in training and by the monitor; after a resume, those of the log.
    entries: what the log held when this start began.
    also: what else gets each entry after it is written, on the main rank.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        from_step: int,
        num_steps: int,
        log_every: int,
        batch_size: int,
        ranks: Ranks,
        num_negatives: int | None = None,
    ) -> None:
        """path: the run directory, None on ranks that do not write. num_steps: of the whole run. batch_size: global.

        num_negatives: K of the bound, None for none.
        """
        self._every, self._num_steps, self._batch_size, self._ranks = log_every, num_steps, batch_size, ranks
        self._num_negatives = num_negatives
        self.also: list[Callable[[Entry], object]] = []
        self._log = StepLog(path, from_step=from_step) if path is not None else None
        self.entries: list[Entry] = self._log.entries if self._log is not None else []
        self.final: dict[str, float] = {}
        for entry in self.entries:
            self._keep(entry)
        self._bar = tqdm(
            total=num_steps, initial=from_step, unit="step", desc="pre-training", disable=not ranks.is_main
        )
        self._started, self._first_step = time.perf_counter(), from_step
        self._clock, self._clock_step, self._waited = self._started, from_step, 0.0
        self._newest_step = from_step

    def __enter__(self) -> Recorder:
        self._above_the_bar = logging_redirect_tqdm()  # what is logged meanwhile gets lines of its own
        self._above_the_bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._above_the_bar.__exit__(None, None, None)
        self._bar.close()
        if self._log is not None:
            with (
                contextlib.nullcontext() if kind is None else contextlib.suppress(Exception)
            ):  # what ended the run counts
                self._log.close()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, with the time noted that each was waited for."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def is_due(self, step: int) -> bool:
        """True for the steps whose figures are averaged over ranks and logged."""
        return step % self._every == 0 or step == self._num_steps

    def record(self, step: int, figures: Mapping[str, Tensor], *, epoch: float, learning_rate: float) -> None:
        """Step `step` (counted from 1) is done; `figures` are this rank's scalars. Called by every rank for every step."""
        self._bar.update()
        self._newest_step = step
        if not self.is_due(step):
            return
        names = [*figures, "data_wait_ms"]
        values = [value.float() for value in figures.values()]
        values.append(torch.full_like(values[0], 1000 * self._waited / (step - self._clock_step)))
        averaged = mean_over_ranks(torch.stack(values), self._ranks)  # waits for the device
        entry: Entry = dict(zip(names, averaged.tolist(), strict=True))
        now = time.perf_counter()
        a_step = max(now - self._clock, 1e-9) / (step - self._clock_step)
        if self._num_negatives is not None and "loss_instance" in entry:
            entry["information_bound"] = information_bound(entry["loss_instance"], num_negatives=self._num_negatives)
        entry |= {
            "learning_rate": learning_rate,
            "images_per_second": self._batch_size / a_step,
            "data_wait": min(1.0, entry["data_wait_ms"] / 1000 / a_step),
            "eta_seconds": (self._num_steps - step) * (now - self._started) / (step - self._first_step),
        }
        self._clock, self._clock_step, self._waited = now, step, 0.0
        self._write({"step": step, "epoch": epoch, **entry})
        shown: dict[str, str] = {name: f"{entry[name]:.3f}" for name in ("loss", "accuracy") if name in entry}
        shown["img/s"] = f"{entry['images_per_second']:.3g}"
        shown["data wait"] = f"{100 * entry['data_wait']:.0f} %"
        self._bar.set_postfix(shown)

    def add(self, step: int, figures: Mapping[str, float], *, epoch: float) -> None:
        """An entry of figures that were measured after `step`, not in it; none where there are no figures."""
        if figures:
            self._write({"step": step, "epoch": epoch, **figures})

    def pause(self, began: float) -> None:
        """What has passed since `began` (time.perf_counter) was no training: it does not count in images_per_second.

        A pause between steps comes again before the end, and counts in eta_seconds; one before the first step does not.
        """
        seconds = time.perf_counter() - began
        self._clock += seconds
        if self._newest_step == self._first_step:
            self._started += seconds

    def _write(self, entry: Entry) -> None:
        self._keep(entry)
        if self._log is not None:
            self._log.write(entry)
        if self._ranks.is_main:
            for take in self.also:
                take(entry)

    def _keep(self, entry: Mapping[str, float]) -> None:
        if entry["step"] == self._num_steps:  # what was measured of earlier weights says nothing of the last ones
            self.final |= {name: value for name, value in entry.items() if name not in ("step", "epoch", *PASSING)}


class StepLog:
    """log.jsonl and TensorBoard, continued from `from_step`: entries that a lost stretch of the run left are dropped.

    entries: those that are kept.
    """

    def __init__(self, path: Path, *, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the writing rank needs it

        self._path = path / "log.jsonl"
        self.entries: list[Entry] = []
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= from_step]
            write_text(self._path, "".join(f"{line}\n" for line in kept))
            self.entries = [json.loads(line) for line in kept]
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._hook, threading.excepthook = threading.excepthook, self._without_traceback
        self._board = SummaryWriter(str(path / "tensorboard"), purge_step=from_step + 1)

    def write(self, entry: Mapping[str, float]) -> None:
        """Append one entry; it holds "step"."""
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        for name, value in entry.items():
            self._board.add_scalar(name, value, int(entry["step"]))  # raises what its thread has met since

    def close(self) -> None:
        """Flush and close both."""
        try:
            self._file.close()
        finally:
            threading.excepthook = self._hook
            self._board.close()

    def _without_traceback(self, ended: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread prints what `write` raises in its turn."""
        if not isinstance(ended.exc_value, OSError):
            self._hook(ended)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill
