"""Resuming is exact at every step, for every method: from the file of step k the next step gives the file of step k + 1, bit by bit.

Proven of each k of a run, it holds for every chain of resumes. The network that resumes is filled with other values first, so that
what it has afterwards comes from the file. As control each part of the state is changed in the file: the step then goes elsewhere.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Mapping

import pytest
import torch

from pretrain import train as train_module
from pretrain.base.errors import Terminated
from pretrain.base.signals import StopFlag
from pretrain.base.strict import from_mapping, merge
from pretrain.config import RunConfig, method_names, method_values
from pretrain.data.stream import open_stream
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from pretrain.run.precision import Precision
from pretrain.run.ranks import Ranks
from pretrain.run.schedule import Momentum
from pretrain.run.watch import Watch
from pretrain.state import build_state, contract_of, learning_rate_of
from pretrain.train import train, train_step
from tests.pretrain.conftest import TINY, in_classes

CPU = torch.device("cpu")
SMALL = {
    "encoder": {"arch": "tiny"},
    "method": {"queue_size": 20, "bank_negatives": 12, "batchnorm_images": 4, "feature_dim": 16, "momentum": 0.9},
    "optimizer": {"batch_size": 8, "epochs": 20},  # 40 steps
    "runtime": {"checkpoint_every_steps": 1},
}
# What the presets do not use.
OTHERS = {
    "symmetric, ramped, synchronised, adamw": {
        "method": {"symmetric": True, "momentum_end": 1.0, "batchnorm": "synchronised", "jigsaw": False},
        "optimizer": {"name": "adamw", "epochs": 3},
    },
    "accumulated, lars": {"optimizer": {"name": "lars", "accumulate": 2, "epochs": 3}},
}


def config_of(image_folder, name, more=None):
    root = in_classes(image_folder) if name == "supervised" else image_folder
    values = merge(merge(TINY, method_values(name)), merge(SMALL, {"data": {"root": str(root)}}))
    return from_mapping(RunConfig, merge(values, more or {}), where=name)


def tensors(value, name=""):
    """Every tensor and number of a nested state by its name."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in tensors(part, f"{name}.{key}").items()}
    if isinstance(value, list):
        return {k: v for key, part in enumerate(value) for k, v in tensors(part, f"{name}.{key}").items()}
    return {name.lstrip("."): value.clone() if isinstance(value, torch.Tensor) else value}


def differing(first, second):
    """Names of what two states have different, or only one of them has."""
    first, second = (
        {part: state[part] for part in ("model", "optimizer", "scaler", "progress")} for state in (first, second)
    )
    first, second = tensors(first), tensors(second)
    return {
        name
        for name in first.keys() | second.keys()
        if name != "progress.images"
        and not (
            torch.equal(first[name], second[name])
            if isinstance(first.get(name), torch.Tensor) and isinstance(second.get(name), torch.Tensor)
            else first.get(name) == second.get(name)
        )
    }


class Resumed:
    """A second process in its place: takes one step from a checkpoint."""

    def __init__(self, config, number_type=None):
        self.config, self.precision = config, Precision(CPU, number_type)
        self.stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
        self.state = build_state(
            config,
            contract_of(config),
            num_images=len(self.stream.source),
            labels=self.stream.labels,
            precision=self.precision,
            ranks=Ranks(),
        )
        self.watch = Watch(StopFlag(), Ranks(), CPU)

    def dict(self):
        return self.state.state_dict(self.config, contract_of(self.config), self.stream.steps_per_epoch)

    def step_from(self, checkpoint):
        """The state after the step that follows `checkpoint`."""
        state = self.state
        with torch.no_grad():
            for tensor in state.method.state_dict().values():
                tensor.fill_(3)
        state.optimizer.state.clear()
        state.step = -1
        state.load_state_dict(copy.deepcopy(checkpoint))  # an optimiser keeps the tensors it is given
        return self.step()

    def step(self):
        state, optimizer = self.state, self.config.optimizer
        total = optimizer.epochs * self.stream.steps_per_epoch
        (batch,) = self.stream.batches(from_step=state.step, num_steps=1)
        train_step(
            state,
            batch,
            learning_rate=learning_rate_of(optimizer, self.stream.steps_per_epoch)(state.step),
            momentum=Momentum(self.config.method.momentum, self.config.method.momentum_end, total)(state.step),
            precision=self.precision,
            ranks=Ranks(),
            watch=self.watch,
            accumulate=optimizer.accumulate,
        )
        return self.dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*method_names(), *OTHERS])
def test_at_every_step_of_forty_the_next_one_is_the_same_from_the_file(
    image_folder, tmp_path, monkeypatch, tiny_encoder, name
):
    config = config_of(image_folder, name if name in method_names() else "infomin", OTHERS.get(name))
    resumed, predicted, compared = Resumed(config), {}, []

    def write(path, content):
        step = content["progress"]["step"]
        if step in predicted:
            assert differing(predicted.pop(step), content) == set(), step
            compared.append(step)
        write_checkpoint(path, content)
        if step < total:
            predicted[step + 1] = {**resumed.step_from(read_checkpoint(path))}

    total = config.optimizer.epochs * 2
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # whether it survives a power cut is asked elsewhere
    monkeypatch.setattr(train_module, "write_checkpoint", write)
    train(config, output_dir=tmp_path / "run", resume=False, ranks=Ranks())
    assert compared == list(range(2, total + 1))
    if name in method_names():
        assert total == 40


def parts_of(state, *, key, features, pointer):
    """One name of each kind of thing that a checkpoint holds."""
    names = list(state["model"])
    kinds = {
        "query": lambda name: name.startswith("query.") and name.endswith("conv1.weight"),
        "head": lambda name: name.startswith("query.") and "head" in name,
        **({"key": lambda name: name.startswith("key.") and name.endswith("conv1.weight")} if key else {}),
        **({"features": lambda name: name.endswith(".features")} if features else {}),
        **({"pointer": lambda name: name.endswith(".pointer")} if pointer else {}),
    }
    return [f"model.{next(filter(kind, names))}" for kind in kinds.values()] + ["momentum", "progress.step"]


def altered(state, part):
    """A copy of a checkpoint's content with one part as it is at the start of a run."""
    state = {key: dict(value) if isinstance(value, dict) else value for key, value in state.items()}
    if part == "momentum":
        state["optimizer"]["state"] = {}
    elif part == "progress.step":
        state["progress"]["step"] -= 1
    elif part == "scaler":
        state["scaler"]["scale"] /= 2
    else:
        name = part.removeprefix("model.")
        state["model"][name] = torch.zeros_like(state["model"][name])
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", method_names())
def test_control_no_part_of_the_state_can_be_lost_unnoticed(image_folder, tiny_encoder, name):
    resumed = Resumed(config_of(image_folder, name))
    for _ in range(4):
        before = copy.deepcopy(resumed.step())
    wanted = copy.deepcopy(resumed.step_from(before))
    assert differing(resumed.step_from(before), wanted) == set()
    memory = resumed.config.method.memory
    for part in parts_of(
        before, key=memory == "queue", features=memory in ("queue", "bank"), pointer=memory == "queue"
    ):
        # Not only is it another value itself: it sends the rest elsewhere.
        assert differing(resumed.step_from(altered(before, part)), wanted) - {part}, part


@pytest.mark.slow
def test_in_fp16_the_scale_of_the_loss_comes_from_the_file(image_folder, tiny_encoder):
    """No step is compared: convolutions of this number type are not repeatable on every CPU."""
    resumed = Resumed(config_of(image_folder, "moco_v2"), torch.float16)
    saved = copy.deepcopy(resumed.step())
    resumed.state.scaler.update(2.0)  # another one than the file's
    for part, factor in (("momentum", 1), ("scaler", 0.5)):
        resumed.state.load_state_dict(altered(saved, part))
        assert resumed.dict()["scaler"]["scale"] == factor * saved["scaler"]["scale"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["infomin", "cmc"])
def test_five_stops_and_resumes_in_a_chain_end_as_the_run_that_nothing_stopped(
    image_folder, tmp_path, monkeypatch, tiny_encoder, name
):
    config = config_of(image_folder, name, {"optimizer": {"epochs": 6}})
    train(config, output_dir=tmp_path / "whole", resume=False, ranks=Ranks())
    step, stops = train_module.train_step, [1, 2, 5, 8, 9]

    def stopped(state, *args, **rest):
        if stops and state.step + 1 == stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, *args, **rest)

    monkeypatch.setattr(train_module, "train_step", stopped)
    for at in (1, 2, 5, 8, 9):
        with pytest.raises(Terminated, match=f"saved at step {at} of 12"):
            train(config, output_dir=tmp_path / "chain", resume=True, ranks=Ranks())
    train(config, output_dir=tmp_path / "chain", resume=True, ranks=Ranks())
    whole, chain = (read_checkpoint(checkpoint_path(tmp_path / run / "checkpoints", 12)) for run in ("whole", "chain"))
    assert differing(whole, chain) == set()
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "chain")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 12
