"""What a run trains is built as its configuration says, and what cannot or should not be trained is named with what to pass."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch

from pretrain import dry_run as dry_run_module
from pretrain import profile as profile_module
from pretrain import state as state_module
from pretrain import train as train_module
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.config import method_values
from pretrain.data.stream import open_stream
from pretrain.model.batchnorm import GatheredBatchNorm
from pretrain.model.contrast import batchnorm_groups
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.state import (
    _warn_of_shared_statistics,
    build_state,
    contract_of,
    learning_rate_of,
    require_rising_warmup,
    require_trainable,
)

CPU = torch.device("cpu")


def test_advice_against_shared_statistics_is_one_that_is_accepted(tiny_config, caplog):
    config = tiny_config(method={"head": "mlp_bn", "batchnorm_images": 32, "jigsaw": True, "jigsaw_fraction": 0.25})
    precision = choose_precision("fp32", torch.device("cpu"))
    require_trainable(config, precision, Ranks())
    (message,) = caplog.messages
    advised = dict(word.rstrip(",").split("=") for word in message.split() if word.startswith("method."))
    values = {name.removeprefix("method."): float(value) for name, value in advised.items()}
    followed = dataclasses.replace(config.method, **{**values, "batchnorm_images": int(values["batchnorm_images"])})
    assert batchnorm_groups(followed, batch_size=config.optimizer.batch_size, world_size=1) > 1


def test_advice_against_synchronised_statistics_with_a_queue_is_to_shuffle(tiny_config, caplog):
    for batchnorm, advised in (("synchronised", True), ("shuffled", False)):
        caplog.clear()
        method = tiny_config(method={"batchnorm": batchnorm, "batchnorm_images": 32}).method
        _warn_of_shared_statistics(method, 8)
        assert ("method.batchnorm=shuffled with method.batchnorm_images=2" in caplog.text) == advised and caplog.text


@pytest.mark.parametrize(
    ("over", "ranks", "message"),
    [
        ({"accumulate": 3}, 1, r"8 is not divisible by 1 ranks x 3 micro-batches .*pass optimizer\.batch_size=6"),
        ({"accumulate": 8}, 1, r"gives each of 8 micro-batches of 1 rank\(s\) one image.*batch_size=16 or more"),
        ({"accumulate": 2}, 4, r"each of 2 micro-batches of 4 rank\(s\) one image"),
        ({}, 3, r"8 is not divisible by 3 ranks; pass"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(tiny_config, over, ranks, message):
    def ask(optimizer, world_size):
        precision = choose_precision("fp32", torch.device("cpu"))
        require_trainable(tiny_config(optimizer=optimizer), precision, Ranks(0, 0, world_size, world_size))

    with pytest.raises(ConfigError, match=message):
        ask(over, ranks)
    ask({"accumulate": 2}, 2)  # control


def test_ranks_of_unequal_machines_cannot_shuffle_over_the_node(tiny_config):
    precision = choose_precision("fp32", torch.device("cpu"))
    for over, refused in (("node", True), ("world", False)):
        config = tiny_config(method={"shuffle_over": over, "batchnorm_images": 2}, optimizer={"batch_size": 15})
        with (
            pytest.raises(ConfigError, match="pass method.shuffle_over=world") if refused else contextlib.nullcontext()
        ):
            require_trainable(config, precision, Ranks(0, 0, 5, 3))


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, None),
        ({"runtime": {"compile": True}}, "runtime.compile=true on the CPU"),
        ({"optimizer": {"name": "lars"}}, "made for batches of 512"),
        ({"optimizer": {"name": "adamw"}}, "rates of 1e-4 to 1e-3"),
        ({"optimizer": {"name": "adamw", "learning_rate": 1e-3}}, None),
        ({"optimizer": {"warmup_epochs": 2}}, None),
        ({"optimizer": {"warmup_epochs": 3}}, "all 3 epochs are warm-up (optimizer.warmup_epochs=3)"),
        (
            {"optimizer": {"batch_size": 512, "learning_rate": 0.06}, "method": {"queue_size": 512}},
            "all 3 epochs are warm-up (optimizer.warmup_epochs=5, which batches above 256 images have)",
        ),
    ],
)
def test_what_can_run_but_should_not_is_warned_of(tiny_config, caplog, over, words):
    require_trainable(tiny_config(**over), choose_precision("fp32", torch.device("cpu")), Ranks())
    assert (caplog.text == "") == (words is None) and (words or "") in caplog.text


@pytest.mark.parametrize(
    ("over", "start"),
    [
        ({"learning_rate": 0.06}, 0.01),  # the reference's own: 0.03 for 256 images
        ({"learning_rate": 3e-4, "name": "adamw"}, 3e-5),
        ({"learning_rate": 0.01}, 1e-3),
        ({"learning_rate": 3e-4, "warmup_epochs": 3}, 3e-5),
        ({"learning_rate": 3e-4, "warmup_start": 0.0}, 0.0),
    ],
)
def test_warm_up_rises_from_the_reference_s_start_or_a_tenth_of_a_lower_rate(tiny_config, over, start):
    over = {"batch_size": 512, "epochs": 100, **over}
    optimizer = tiny_config(optimizer=over, method={"queue_size": 512}).optimizer
    rate = learning_rate_of(optimizer, 10)
    require_rising_warmup(optimizer)
    assert rate(0) == pytest.approx(start)
    rates = [rate(step) for step in range(10 * (optimizer.warmup_epochs or 5))]
    assert rates == sorted(rates) and rates[0] < rates[-1] <= optimizer.learning_rate


def test_an_own_start_of_warm_up_above_the_rate_is_refused(tiny_config):
    over = {"learning_rate": 0.002, "warmup_start": 0.005}
    advice = r"warmup_start expected at most optimizer\.learning_rate=0\.002, found 0\.005; pass optimizer\.warmup_start=0\.0002"
    with pytest.raises(ConfigError, match=advice):
        require_rising_warmup(tiny_config(optimizer={**over, "warmup_epochs": 1}).optimizer)
    require_rising_warmup(tiny_config(optimizer={**over, "warmup_epochs": 0}).optimizer)  # control: it is never used


@pytest.mark.parametrize("name", ["simclr", "infomin"])
def test_batchnorm_is_synchronised_over_ranks_where_the_method_says_so(tiny_config, tiny_encoder, monkeypatch, name):
    monkeypatch.setattr(state_module, "DistributedDataParallel", lambda module, **options: module)
    values = {**method_values(name), "encoder": {"arch": "tiny"}}
    state = build_state(
        tiny_config(**values), InputContract(), precision=choose_precision("fp32", CPU), ranks=Ranks(0, 0, 2, 2)
    )
    layers = [layer for layer in state.method.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    assert layers and {isinstance(layer, GatheredBatchNorm) for layer in layers} == {name == "simclr"}


def test_the_networks_are_built_as_the_configuration_says(tiny_config, tiny_encoder):
    def built(stem, channels_last):
        over = {"encoder": {"arch": "tiny", "stem": stem}, "runtime": {"channels_last": channels_last}}
        config = tiny_config(**over)
        contract = contract_of(config)
        state = build_state(config, contract, precision=choose_precision("fp32", CPU), ranks=Ranks())
        weights = [network.encoder.conv1.weight for network in (state.method.query, state.method.key)]
        formats = {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}
        return {tuple(weight.shape[2:]) for weight in weights}, contract.stem, formats

    assert built("imagenet", False) == ({(7, 7)}, "basic", {False})
    assert built("small", True) == ({(3, 3)}, "small", {True})


@pytest.mark.parametrize(
    ("device", "deterministic", "tries"), [("cuda", 0, True), ("cuda", 1, False), ("cpu", 0, False)]
)
def test_cudnn_tries_its_kernels_on_a_gpu_unless_results_must_repeat(
    tiny_config, image_folder, monkeypatch, device, deterministic, tries
):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: bool(deterministic))
    monkeypatch.setattr(state_module, "build_state", lambda *args, **rest: None)  # there is no GPU here to build it on
    stream = open_stream(tiny_config(), ranks=Ranks(), announce=lambda text: None)
    precision = choose_precision("fp32", torch.device(device))
    state_module.state_for(tiny_config(), stream, precision=precision, ranks=Ranks())
    assert torch.backends.cudnn.benchmark == tries


@pytest.mark.parametrize("command", ["run", "dry run", "profile"])
def test_run_dry_run_and_profile_set_up_the_device_alike(tiny_config, tmp_path, monkeypatch, command):
    class SetUp(Exception):
        pass

    def set_up(*args, **rest):
        raise SetUp

    for module in (train_module, dry_run_module, profile_module):
        monkeypatch.setattr(module, "state_for", set_up)
    config = tiny_config()
    with pytest.raises(SetUp):
        if command == "run":
            train_module.train(config, output_dir=tmp_path / "run", resume=False, ranks=Ranks())
        elif command == "profile":
            profile_module.profile(config, ranks=Ranks())
        else:
            stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
            dry_run_module.describe(config, stream, ranks=Ranks())


def test_compiled_encoders_keep_their_names(tiny_config, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(module))
    precision = choose_precision("fp32", torch.device("cpu"))
    names = []
    for compile_ in (False, True):
        config = tiny_config(runtime={"compile": compile_})
        state = build_state(config, InputContract(), precision=precision, ranks=Ranks())
        names.append(list(state.method.state_dict()))
        assert len(compiled) == (2 if compile_ else 0)  # query and key
    assert names[0] == names[1]
