"""A run with the monitor: the same weights as without, told of collapse in words, never lost for the sake of a measurement."""

from __future__ import annotations

import json
import re
import time

import pytest
import torch
import torch.multiprocessing as mp

from pretrain import train as train_module
from pretrain.base.errors import ConfigError, DataError, Terminated
from pretrain.base.record import read_record
from pretrain.data.stream import open_stream
from pretrain.dry_run import describe
from pretrain.run import monitor as monitor_module
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint
from pretrain.run.ranks import Ranks, start_ranks, stop_ranks
from pretrain.train import train
from tests.pretrain.conftest import write_images

STEPS = 6
HALF = {"arch": "resnet18_half"}
MONITOR = {"every_epochs": 1, "max_images": 20, "neighbours": 3}


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Two classes of six images."""
    root = tmp_path_factory.mktemp("labelled")
    for name in ("one", "two"):
        write_images(root / name, 6)
    return root


def run(config, directory, *, resume=False):
    return train(config, output_dir=directory, resume=resume, ranks=Ranks())


def weights(directory, step=STEPS):
    return read_checkpoint(checkpoint_path(directory / "checkpoints", step))["model"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(directory):
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def measured(directory):
    return [entry["step"] for entry in log_of(directory) if "effective_rank" in entry]


@pytest.mark.slow
def test_a_run_ends_in_the_same_weights_with_and_without_the_monitor(tiny_config, labelled, tmp_path, monkeypatch):
    watched = tiny_config(encoder=HALF, monitor={**MONITOR, "labelled": str(labelled)})
    run(tiny_config(encoder=HALF), tmp_path / "without")
    run(watched, tmp_path / "with")
    assert measured(tmp_path / "with") == [0, 2, 4, 6]
    assert same(weights(tmp_path / "without"), weights(tmp_path / "with"))
    final = read_record(tmp_path / "with" / "record.json").figures
    assert 0 <= final["knn"] <= 100 and final["effective_rank"] > 1 and final["loss"] > 0
    # The control: a monitor that looks in training mode moves BatchNorm's statistics, and the comparison sees it.
    monkeypatch.setattr(monitor_module, "evaluation", lambda module: torch.no_grad())
    run(watched, tmp_path / "careless")
    assert not same(weights(tmp_path / "without"), weights(tmp_path / "careless"))


@pytest.mark.slow
def test_a_measurement_that_a_kill_left_out_is_made_by_the_next_start_and_no_other_twice(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config(encoder=HALF, monitor=MONITOR)

    class Killed(BaseException):
        pass

    def kill(self, network, step):
        if step == 2:
            raise Killed
        return after_epoch(self, network, step)

    after_epoch = monitor_module.Monitor.after_epoch
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(monitor_module.Monitor, "after_epoch", kill)
        run(config, tmp_path / "run")
    assert measured(tmp_path / "run") == [0]
    run(config, tmp_path / "run", resume=True)  # from step 2, which was saved before it was measured
    assert measured(tmp_path / "run") == [0, 2, 4, 6]
    run(tiny_config(encoder=HALF), tmp_path / "whole")
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


class Stops:
    """A stop signal while `when` holds of (the step, what is done then: "measured" or "taken")."""

    def __init__(self, patch, when):
        flags, step = [], train_module.train_step

        class Flag(train_module.StopFlag):
            def __init__(self):
                super().__init__()
                flags.append(self)

        def take(state, *words, **rest):
            flags[-1].is_set |= when == (state.step + 1, "taken")
            return step(state, *words, **rest)

        def measure(self, network, step):
            flags[-1].is_set |= self.is_due(step) and when == (step, "measured")
            return after_epoch(self, network, step)

        after_epoch = monitor_module.Monitor.after_epoch
        patch.setattr(train_module, "StopFlag", Flag)
        patch.setattr(train_module, "train_step", take)
        patch.setattr(monitor_module.Monitor, "after_epoch", measure)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "message", "before"),
    [
        ((0, "measured"), "^before the first step, nothing to save; give the same command again to begin$", []),
        ((2, "measured"), "^saved at step 2 of 6; give the same command again to continue$", [0]),
        ((STEPS, "taken"), "^saved at step 6 of 6; give the same command again to finish$", [0, 2, 4]),
        ((STEPS, "measured"), "^saved at step 6 of 6; give the same command again to finish$", [0, 2, 4]),
    ],
)
def test_a_measurement_that_a_stop_signal_ended_is_made_by_the_next_start_of_the_same_weights(
    tiny_config, tiny_encoder, labelled, tmp_path, when, message, before
):
    config = tiny_config(
        encoder={"arch": "tiny"},
        method={"jigsaw": False},
        monitor={**MONITOR, "labelled": str(labelled)},
        runtime={"checkpoint_every_steps": 4},  # step 2 is saved because it is stopped there
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Terminated, match=message):
        Stops(patch, when)
        run(config, tmp_path / "run")
    assert measured(tmp_path / "run") == before
    assert read_record(tmp_path / "run" / "record.json").status == "stopped"
    result = run(config, tmp_path / "run", resume=True)
    assert measured(tmp_path / "run") == [0, 2, 4, 6]
    run(config, tmp_path / "whole")

    def probes(name):
        return [(entry["knn"], entry["effective_rank"]) for entry in log_of(tmp_path / name) if "knn" in entry]

    assert probes("run") == probes("whole")  # each of the weights that it says
    assert result["final"]["effective_rank"] == probes("whole")[-1][1] != probes("whole")[-2][1]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def one_of_two(rank, configs, port, queue):
    import os

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks = start_ranks("cpu", timeout_s=60)
    for directory, config in configs.items():
        queue.put(train(config, output_dir=directory, resume=True, ranks=ranks)["steps"])
    stop_ranks(ranks)


@pytest.mark.slow
def test_two_ranks_wait_for_the_monitor_and_end_in_the_weights_of_two_without(
    tiny_config, labelled, tmp_path, free_port
):
    configs = {
        tmp_path / name: tiny_config(
            encoder=HALF, monitor=monitor, method={"batchnorm_images": 4}, optimizer={"epochs": 1}
        )
        for name, monitor in (("without", {}), ("with", {**MONITOR, "labelled": str(labelled)}))
    }
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=one_of_two, args=(rank, configs, free_port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=240) for _ in range(4)] == [2, 2, 2, 2]
    for process in processes:
        process.join(timeout=60)
    assert measured(tmp_path / "with") == [0, 2]
    assert same(weights(tmp_path / "without", 2), weights(tmp_path / "with", 2))


def of_many_images(tiny_config, root, **over):
    values = {
        "encoder": HALF,
        "data": {"root": str(root)},
        "views": {"recipe": "moco_v2"},
        "optimizer": {"batch_size": 32, "epochs": 10, "learning_rate": 0.03},
        "runtime": {"log_every_steps": 5},
    }
    method = {"name": "moco_v2", "jigsaw": False, "queue_size": 256, "batchnorm_images": 8, "temperature": 0.2}
    return tiny_config(**{**values, **over, "method": {**method, **over.get("method", {})}})


@pytest.mark.slow
def test_a_run_that_collapses_is_told_within_its_first_epochs_and_one_that_does_not_is_left_in_peace(
    tiny_config, tmp_path, caplog
):
    """Measured: a key network without momentum and a head without BatchNorm collapse to a spread of 0.003 in 25 steps."""
    write_images(tmp_path / "images", 160)
    collapsing = of_many_images(tiny_config, tmp_path / "images", method={"momentum": 0.0, "head": "mlp"})
    result = run(collapsing, tmp_path / "collapsing")
    (finding,) = result["findings"]
    step = int(re.match(r"step (\d+): the embeddings are collapsing", finding)[1])
    assert step <= 50  # of 50 here; a tenth of an epoch of ImageNet is 500
    assert "1. method.head=mlp_bn" in finding and "method.momentum=0.99" in finding
    assert caplog.text.count("are collapsing") == 1
    assert read_record(tmp_path / "collapsing" / "record.json").details["findings"] == [finding]
    healthy = of_many_images(tiny_config, tmp_path / "images", method={"momentum": 0.99, "head": "mlp_bn"})
    found = run(healthy, tmp_path / "healthy").get("findings", [])
    assert not [
        text for text in found if not text.startswith("the run ended after 50 steps")
    ]  # it was short: that may be said
    assert (tmp_path / "healthy" / "curves.png").exists()


@pytest.mark.slow
def test_the_dry_run_foretells_the_time_of_a_run(tiny_config, tmp_path):
    """Within a factor of 3: both are measured on a machine that does other things meanwhile."""
    write_images(tmp_path / "images", 64)
    config = of_many_images(
        tiny_config,
        tmp_path / "images",
        views={"recipe": "moco_v2", "image_size": 64},
        optimizer={"batch_size": 16, "epochs": 10},
        monitor={"every_epochs": 5, "max_images": 64},
    )
    said = describe(config, open_stream(config, ranks=Ranks(), announce=lambda text: None), ranks=Ranks())
    per_step = float(re.search(r"40 steps of ([\d.]+) s \(step [\d.]+ s, input [\d.]+ s a batch", said)[1])
    began = time.perf_counter()
    run(config, tmp_path / "run")
    taken = time.perf_counter() - began
    assert taken / 3 < 40 * per_step + 1 < taken * 3, (said, taken)


def test_a_labelled_folder_that_cannot_serve_is_refused_before_anything_is_written(tiny_config, tmp_path):
    with pytest.raises(DataError, match="expected a folder with one folder a class, found nothing"):
        run(tiny_config(monitor={**MONITOR, "labelled": str(tmp_path / "nothing")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(tiny_config, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        run(tiny_config(monitor={"trackers": ["wandb"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_mistyped_labelled_folder_is_named_before_the_images_are_looked_through(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr("pretrain.train.open_stream", lambda *arguments, **options: pytest.fail("looked through"))
    config = tiny_config(monitor={"every_epochs": 1, "labelled": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"^monitor.labelled: .*nowhere: expected a folder with one folder a class"):
        train(config, output_dir=tmp_path / "run", resume=True, ranks=Ranks())
