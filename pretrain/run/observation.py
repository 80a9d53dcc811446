"""All that is seen of a run while it runs: recorder, monitor, trackers, warnings, curves. None of it changes the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from torch import Tensor, nn

from pretrain.base.errors import Terminated
from pretrain.base.signals import StopFlag
from pretrain.config import RunConfig, to_plain
from pretrain.run.curves import draw_curves
from pretrain.run.diagnosis import Diagnosis, Entry, Finding, RunFacts
from pretrain.run.folder import RunDir
from pretrain.run.monitor import Monitor, MonitorImages, Towers, chance, num_asked
from pretrain.run.ranks import Ranks, gather_values
from pretrain.run.recorder import Recorder
from pretrain.run.trackers import Trackers

T = TypeVar("T")

logger = logging.getLogger(__name__)


def num_negatives(config: RunConfig, num_classes: int | None = None) -> int:
    """K of a query: the memory's, the other classes, or both views of the other images of a micro-batch, those of all ranks."""
    if num_classes is not None:
        return num_classes - 1
    images = config.optimizer.batch_size // config.optimizer.accumulate
    return config.method.num_negatives or 2 * images - 2


def run_facts(config: RunConfig, *, steps_per_epoch: int, asked: int = 0, num_classes: int | None = None) -> RunFacts:
    """What the rules of pretrain/run/diagnosis.py need. asked: images that the kNN probe asks about. num_classes: of supervised
    training."""
    method, optimizer = config.method, config.optimizer
    return RunFacts(
        num_negatives=num_negatives(config, num_classes),
        feature_dim=method.feature_dim,
        memory=method.memory,
        keys_per_step=optimizer.batch_size * (2 if method.symmetric else 1),
        steps_per_epoch=steps_per_epoch,
        head=method.head,
        learning_rate=optimizer.learning_rate,
        momentum=method.momentum,
        batchnorm_images=method.batchnorm_images,
        asked=asked,
    )


class Observation:
    """One start of a run. Every rank calls every method; the main one writes. A context: closes what it opened."""

    def __init__(
        self,
        run: RunDir | None,
        config: RunConfig,
        images: MonitorImages | None,
        *,
        num_classes: int | None = None,
        encode: Callable[[nn.Module, Tensor], Towers],
        from_step: int,
        steps_per_epoch: int,
        stop: StopFlag,
        ranks: Ranks,
    ) -> None:
        """run, images: None on ranks that do not write. encode: as of `Monitor`. num_classes: of supervised training."""
        self._run, self._steps_per_epoch = run, steps_per_epoch
        num_steps = config.optimizer.epochs * steps_per_epoch
        self.recorder = Recorder(
            run.path if run else None,
            from_step=from_step,
            num_steps=num_steps,
            log_every=config.runtime.log_every_steps,
            batch_size=config.optimizer.batch_size,
            ranks=ranks,
            num_negatives=num_negatives(config, num_classes),
        )
        measured = [int(entry["step"]) for entry in self.recorder.entries if "effective_rank" in entry]
        self._monitor = Monitor(
            images,
            encode=encode,
            image_size=config.views.image_size,
            neighbours=config.monitor.neighbours,
            every_steps=config.monitor.every_epochs * steps_per_epoch,
            num_steps=num_steps,
            ranks=ranks,
            stop=stop,
            measured=gather_values(max(measured, default=None), ranks)[0],
            threads=config.data.num_workers,
        )
        labels = images.labels if images is not None else None
        self._chance = None if labels is None else chance(labels)
        self._facts = run_facts(
            config,
            steps_per_epoch=steps_per_epoch,
            asked=0 if labels is None else num_asked(labels),
            num_classes=num_classes,
        )
        self._diagnosis = Diagnosis(self._facts, earlier=self.recorder.entries)
        self._trackers = Trackers(config.monitor.trackers, run.path, to_plain(config)) if run is not None else None
        self.recorder.also += [self._look] if self._trackers is None else [self._trackers.log, self._look]

    def __enter__(self) -> Observation:
        self.recorder.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.recorder.__exit__(kind, error, _)
        if self._trackers is not None:
            self._trackers.close(failed=error is not None and not isinstance(error, (Terminated, KeyboardInterrupt)))

    @property
    def findings(self) -> list[str]:
        """What was found so far, in words."""
        return [str(finding) for finding in self._diagnosis.findings]

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, with the time noted that each was waited for."""
        return self.recorder.timed(batches)

    def is_due(self, step: int) -> bool:
        """True where the figures of `step` will be read: what is not finite must have ended the run before."""
        return self.recorder.is_due(step) or self._monitor.is_due(step)

    def record(self, step: int, figures: Mapping[str, Tensor], *, learning_rate: float) -> None:
        """Step `step` (counted from 1) is done."""
        self.recorder.record(step, figures, epoch=step / self._steps_per_epoch, learning_rate=learning_rate)

    def monitor(self, network: nn.Module, step: int) -> bool:
        """Measure, where it is due after `step` steps and has not been done; then draw the curves so far.

        False, on all ranks alike, where a stop signal ended the measurement: it is still due.
        """
        if not self._monitor.is_due(step):
            return True
        began = time.perf_counter()
        figures = self._monitor.after_epoch(network, step)
        if figures is None:
            return False
        self.recorder.add(step, figures, epoch=step / self._steps_per_epoch)
        if figures:
            shown = {name: f"{value:.3g}" for name, value in figures.items()}
            at_random = ", random weights" if step == 0 else ""
            logger.info("step %d%s: %s", step, at_random, ", ".join(f"{name} {value}" for name, value in shown.items()))
        self.draw()
        self.recorder.pause(began)
        return True

    def draw(self) -> None:
        """curves.png of the log so far."""
        if self._run is None:
            return
        try:
            draw_curves(
                self._run.path,
                num_negatives=self._facts.num_negatives,
                feature_dim=self._facts.feature_dim,
                chance=self._chance,
                asked=self._facts.asked,
            )
        except OSError as error:  # a full disk: a picture ends no run
            logger.warning("curves.png was not drawn: %s", error)

    def end(self) -> None:
        """What only the end of a run shows, and the curves of all of it."""
        self._say(self._diagnosis.end())
        self.draw()

    def _look(self, entry: Entry) -> None:
        self._say(self._diagnosis.look(entry))

    def _say(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            logger.warning("%s", finding)
            if self._run is not None:
                self._run.record.update(details={**self._run.record.record.details, "findings": self.findings})
