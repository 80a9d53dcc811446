"""Trackers that were asked for get config and figures under the log's names, and nothing that they do can end a run."""

from __future__ import annotations

import json
import sys
import threading
import types

import pytest

from pretrain.base.errors import ConfigError
from pretrain.run import trackers as trackers_module
from pretrain.run.trackers import Trackers, require_trackers

CONFIG = {"seed": 0, "optimizer": {"batch_size": 8}}


class FakeWandb(types.ModuleType):
    """Keeps what it is told; a run begun with an id is that run."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.finished = [], [], []

    def init(self, **settings):
        self.begun.append(settings)
        return types.SimpleNamespace(
            id=settings["id"] or "w1",
            log=self.logged.append,
            define_metric=lambda *words, **rest: None,
            finish=lambda exit_code: self.finished.append(exit_code),
        )


class FakeMlflow(types.ModuleType):
    """mlflow, mlflow.tracking and mlflow.entities in one."""

    def __init__(self):
        super().__init__("mlflow")
        self.params, self.metrics, self.status = {}, [], []
        module = self

        class Client:
            def get_experiment_by_name(self, name):
                return None

            def create_experiment(self, name):
                return "7"

            def create_run(self, experiment, run_name):
                assert experiment == "7"
                return types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))

            def log_param(self, run, key, value):
                module.params[key] = value

            def log_batch(self, run, metrics):
                module.metrics += [(run, *metric) for metric in metrics]

            def set_terminated(self, run, status):
                module.status.append((run, status))

        self.MlflowClient = Client
        self.Metric = lambda name, value, timestamp, step: (name, value, step)


@pytest.fixture
def services(monkeypatch):
    wandb, mlflow = FakeWandb(), FakeMlflow()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("mlflow", "mlflow.tracking", "mlflow.entities"):
        monkeypatch.setitem(sys.modules, name, mlflow)
    return wandb, mlflow


def test_both_get_configuration_and_figures_under_the_names_of_the_log(services, tmp_path):
    wandb, mlflow = services
    trackers = Trackers(("wandb", "mlflow"), tmp_path, CONFIG)
    trackers.log({"step": 3, "epoch": 0.5, "loss": 6.9})
    trackers.close()
    assert wandb.begun[0]["config"] == CONFIG and wandb.begun[0]["name"] == tmp_path.name
    assert wandb.logged == [{"step": 3, "epoch": 0.5, "loss": 6.9}] and wandb.finished == [0]
    assert mlflow.params == {"seed": "0", "optimizer.batch_size": "8"}
    assert mlflow.metrics == [("m1", "epoch", 0.5, 3), ("m1", "loss", 6.9, 3)]
    assert mlflow.status == [("m1", "FINISHED")]


def test_a_resumed_run_goes_on_in_the_same_run_of_the_service(services, tmp_path):
    wandb, mlflow = services
    Trackers(("wandb", "mlflow"), tmp_path, CONFIG).close(failed=True)
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "w1", "mlflow": "m1"}
    assert wandb.finished == [1] and mlflow.status == [("m1", "FAILED")]
    Trackers(("wandb", "mlflow"), tmp_path, CONFIG).close()
    assert [settings["id"] for settings in wandb.begun] == [None, "w1"]
    assert mlflow.status[1:] == [("m1", "RUNNING"), ("m1", "FINISHED")]


@pytest.mark.parametrize("where", ["at the start", "on the way"])
def test_a_service_that_fails_is_reported_once_and_the_others_go_on(services, tmp_path, monkeypatch, caplog, where):
    wandb, mlflow = services

    def fail(*words, **rest):
        raise ConnectionError("no route to host")

    if where == "at the start":
        monkeypatch.setattr(wandb, "init", fail)
    else:
        monkeypatch.setattr(
            wandb,
            "init",
            lambda **rest: types.SimpleNamespace(
                id="w1", log=fail, define_metric=lambda *words, **rest: None, finish=fail
            ),
        )
    trackers = Trackers(("wandb", "mlflow"), tmp_path, CONFIG)
    for step in range(3):
        trackers.log({"step": step, "loss": 1.0})
    trackers.close()
    assert caplog.text.count("wandb failed and is left alone") == 1 and "no route to host" in caplog.text
    assert len(mlflow.metrics) == 3 and mlflow.status == [("m1", "FINISHED")]


def test_a_service_that_hangs_holds_up_neither_a_step_nor_the_end(services, tmp_path, monkeypatch, caplog):
    wandb, _ = services
    released = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **rest: released.wait(20))
    monkeypatch.setattr(trackers_module, "CLOSE_SECONDS", 0.1)
    trackers = Trackers(("wandb",), tmp_path, CONFIG)
    trackers.log({"step": 1, "loss": 1.0})
    trackers.close()
    assert "wandb has not answered" in caplog.text
    released.set()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_refused_with_what_to_type(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    with pytest.raises(ConfigError, match=f"{name} is not installed .*type `pip install {name}`"):
        require_trackers((name,))


def test_nothing_is_imported_or_written_unless_asked(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    require_trackers(())
    trackers = Trackers((), tmp_path, CONFIG)
    trackers.log({"step": 1, "loss": 1.0})
    trackers.close()
    assert not list(tmp_path.iterdir())
