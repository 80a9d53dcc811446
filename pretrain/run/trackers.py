"""Where the log also goes: Weights & Biases and MLflow, imported only where asked for.

In: names, the run's folder, its configuration, entries of the log. Each tracker is served by a thread of its own, so that a
network that is slow or gone never holds up a step: what fails is reported once, and the tracker is left alone from then on.
The tracker's id of the run is kept in trackers.json, so that a resumed run continues there.
Servers, projects and credentials are the trackers' own settings: WANDB_PROJECT, WANDB_MODE=offline; MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError
from pretrain.base.same_run import flat

PROJECT = "infomin-transfer"
IDS = "trackers.json"
CLOSE_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a tracking service does for a run. id: the service's name of the run."""

    id: str

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One entry of the log."""

    def close(self, *, failed: bool) -> None:
        """The run has ended."""


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            id=known,
            resume="allow",
        )
        self.id = str(self._run.id)
        # "step" is a figure of its own: wandb's counter would drop the stretch that a resumed run repeats.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**figures, "step": step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow, through its client: nothing global is set."""

    def __init__(self, folder: Path, config: Mapping[str, Any], known: str | None) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        if known is not None:
            self._client.set_terminated(known, status="RUNNING")
            self.id = known
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        self.id = str(self._client.create_run(number, run_name=folder.name).info.run_id)
        for key, value in flat(config).items():
            self._client.log_param(self.id, key, str(value)[:500])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self.id, status="FAILED" if failed else "FINISHED")


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], str | None], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow}


def require_trackers(names: Sequence[str]) -> None:
    """Import the packages. Raises ConfigError for one that is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"monitor.trackers: {name} is not installed ({error}); type `pip install {name}`, or leave it out of "
                "monitor.trackers"
            ) from None


class Trackers:
    """The trackers of a run. As a context it closes them, as failed where an exception ends it."""

    def __init__(self, names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> None:
        """folder: the run's. config: its plain values."""
        self._served = [_Served(name, folder, config) for name in dict.fromkeys(names)]

    def log(self, entry: Mapping[str, float]) -> None:
        """One entry of the log; it holds "step"."""
        figures = {name: float(value) for name, value in entry.items() if name != "step"}
        for served in self._served:
            served.put(lambda tracker: tracker.log(figures, int(entry["step"])))

    def close(self, *, failed: bool = False) -> None:
        """Wait until all is sent, 30 seconds at most."""
        for served in self._served:
            served.put(lambda tracker: tracker.close(failed=failed), last=True)
        for served in self._served:
            served.join()


class _Served:
    """One tracker and the thread that talks to it."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Callable[[Tracker], None], bool]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(folder, config), name=name, daemon=True)
        self._thread.start()

    def put(self, action: Callable[[Tracker], None], *, last: bool = False) -> None:
        self._waiting.put((action, last))

    def join(self) -> None:
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning(
                "%s has not answered for %.0f s; what it has not sent is in log.jsonl", self._name, CLOSE_SECONDS
            )

    def _serve(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            tracker = TRACKERS[self._name](folder, config, _known_ids(folder).get(self._name))
            _keep_id(folder, self._name, tracker.id)
            last = False
            while not last:
                action, last = self._waiting.get()
                action(tracker)
        except BaseException as error:  # whatever a service's client raises, SystemExit too, the run goes on
            logger.warning(
                "%s failed and is left alone from here on; the run goes on, and log.jsonl has all figures (%s: %s)",
                self._name,
                type(error).__name__,
                str(error).strip().splitlines()[0] if str(error).strip() else "no message",
            )


_lock = threading.Lock()


def _known_ids(folder: Path) -> dict[str, str]:
    path = folder / IDS
    with _lock:
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except ValueError:
            return {}


def _keep_id(folder: Path, name: str, run: str) -> None:
    ids = _known_ids(folder) | {name: run}
    with _lock:
        write_json(folder / IDS, ids)
