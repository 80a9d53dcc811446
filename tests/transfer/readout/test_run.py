"""A readout from request to result: what is written, what is not repeated, what is refused, and the sabotaged encoder."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, DataError, UserError
from pretrain.run.precision import Precision
from transfer.compare.results import read_run
from transfer.readout import run as linear_run
from transfer.readout.config import LinearConfig
from transfer.readout.features import FrozenEncoder, load_frozen_encoder, state_hash
from transfer.readout.run import RESULT_NAME, STARTED_NAME, Request, run_readout

TINY = LinearConfig(
    epochs=2,
    batch_size=8,
    image_size=32,
    learning_rate=0.1,
    cached_views=1,
    device="cpu",
    precision="fp32",
    num_workers=0,
)


class SmallEncoder(nn.Module):
    """A convolution and a BatchNorm: what a readout needs, in microseconds."""

    arch, feature_dim = "resnet18", 8

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.convolution(images)).relu().mean((2, 3))


@pytest.fixture(autouse=True)
def small_encoder(monkeypatch):
    """Random weights of known architectures become a SmallEncoder; everything else goes the real way."""

    def load(weights, config, *, branch):
        if weights.removeprefix("random:") not in ARCHITECTURES:
            return load_frozen_encoder(weights, config, branch=branch)
        torch.manual_seed(config.seed)
        return FrozenEncoder(SmallEncoder().eval(), InputContract(), Precision(torch.device("cpu"), None), None)

    monkeypatch.setattr(linear_run, "load_frozen_encoder", load)
    return load


@pytest.fixture
def request_of(class_folders):
    def make(
        weights="random:resnet18", data=class_folders, init="random", command="python tools/linear_eval.py", **over
    ):
        return Request(weights, data, replace(TINY, **over), init, None, command)

    return make


def run(request, output_dir):
    said = []
    return run_readout(request, output_dir, announce=said.append), said


def test_the_result_holds_what_the_report_reads(request_of, tmp_path):
    result, said = run(request_of(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / RESULT_NAME).read_text()) == result
    assert not (tmp_path / "out" / STARTED_NAME).exists()
    read = read_run(tmp_path / "out")
    record = read.record
    assert (read.label, record.experiment["arch"]) == ("random", "resnet18")
    assert (record.data["train"].num_images, record.data["test"].num_images) == (21, 12)
    assert record.class_names == ("blue", "green", "red") and record.commands == ("python tools/linear_eval.py",)
    assert read.metrics == {"top1": result["history"][-1]["top1"], "top5": 100.0} and len(read.curve) == 2
    assert result["protocol"]["is_paper"] is False and "cached_views=1" in result["protocol"]["differs"]
    assert result["protocol"]["top5_k"] == 3 and any("top-3" in line for line in said)


def test_the_result_carries_the_hash_of_the_weights_that_were_read(request_of, small_encoder):
    encoder = small_encoder("random:resnet18", TINY, branch=None)
    assert run(request_of(), None)[0]["encoder"] == {"unchanged": True, "state_sha256": state_hash(encoder.module)}


def test_without_an_output_directory_nothing_is_written(request_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(request_of(), None)
    assert list(tmp_path.iterdir()) == []


def test_equal_readouts_give_equal_results_and_seeds_differ(request_of):
    first, again, other = (run(request_of(seed=seed), None)[0] for seed in (0, 0, 1))
    assert first == again and first["history"] != other["history"]


def test_an_encoder_that_moves_ends_the_readout_without_a_result(request_of, tmp_path, monkeypatch):
    honest = FrozenEncoder.features

    def features_in_training_mode(self, images):
        self.module.train()  # batch statistics, and running averages that follow the data
        return honest(self, images)

    monkeypatch.setattr(FrozenEncoder, "features", features_in_training_mode)
    with pytest.raises(AssertionError, match="frozen encoder moved"):
        run(request_of(), tmp_path / "out")
    assert not (tmp_path / "out" / RESULT_NAME).exists()


def forbid_measuring(monkeypatch):
    def measure(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(linear_run, "measure", measure)


def test_a_finished_readout_is_not_run_again(request_of, tmp_path, monkeypatch):
    result, _ = run(request_of(), tmp_path / "out")
    forbid_measuring(monkeypatch)
    again, said = run(request_of(num_workers=1, command="typed otherwise"), tmp_path / "out")
    assert again == result and "finished already" in said[0]


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ({"seed": 1}, r"config\.seed: 0 there, 1 now"),
        ({"weights": "random:resnet34"}, "weights: "),
        ({"init": "other"}, "init: "),
    ],
)
def test_another_readout_does_not_replace_a_finished_one(request_of, tmp_path, monkeypatch, over, word):
    run(request_of(), tmp_path / "out")
    before = (tmp_path / "out" / RESULT_NAME).read_bytes()
    forbid_measuring(monkeypatch)
    with pytest.raises(ConfigError, match=f"finished readout with another configuration .*{word}"):
        run(request_of(**over), tmp_path / "out")
    assert (tmp_path / "out" / RESULT_NAME).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": 3}', '{"identity": null}'])
def test_a_damaged_result_is_named(request_of, tmp_path, content):
    (tmp_path / RESULT_NAME).write_text(content)
    with pytest.raises(ConfigError, match=RESULT_NAME):
        run(request_of(), tmp_path)


def test_an_interrupted_readout_starts_again(request_of, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(linear_run, "measure", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(request_of(), tmp_path / "out")
    assert (tmp_path / "out" / STARTED_NAME).exists()  # the report lists it as unfinished
    (tmp_path / "out" / f".{RESULT_NAME}.123.tmp").write_text("cut short by a kill")
    run(request_of(), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RESULT_NAME, "run.lock"}


def test_a_folder_with_other_files_is_refused_and_left_alone(request_of, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        run(request_of(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_output_directory_in_use_is_refused(request_of, tmp_path):
    with open(tmp_path / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="in use"):
            run(request_of(), tmp_path)


def test_an_output_directory_that_cannot_be_made_is_refused(request_of, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot write"):
        run(request_of(), tmp_path / "file" / "out")


@pytest.mark.parametrize("over", [{"data": "nothing"}, {"weights": "nothing.pth"}, {"weights": "random:alexnet"}])
def test_what_is_refused_leaves_no_folder(request_of, tmp_path, over):
    if "data" in over:
        over = {"data": tmp_path / "nothing"}
    with pytest.raises(UserError):
        run(request_of(**over), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_refused_readout_keeps_a_folder_that_was_there(request_of, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError):
        run(request_of(data=tmp_path / "nothing"), tmp_path / "out")
    assert (tmp_path / "out").is_dir()


def test_divergence_writes_no_result(request_of, tmp_path, monkeypatch):
    honest = FrozenEncoder.features
    monkeypatch.setattr(FrozenEncoder, "features", lambda self, images: 1e15 * honest(self, images))
    with pytest.raises(ConfigError, match="diverged"):
        run(request_of(learning_rate=1e30), tmp_path / "out")
    assert not (tmp_path / "out" / RESULT_NAME).exists()


def test_a_rate_that_is_far_too_high_is_announced_once_in_the_epoch_that_shows_it(request_of):
    lines = [line for line in run(request_of(learning_rate=1e6), None)[1] if "constant answer" in line]
    assert len(lines) == 1 and lines[0].startswith(("epoch 1:", "epoch 2:")) and "pass learning_rate=100000" in lines[0]
    assert not any("constant answer" in line for line in run(request_of(learning_rate=1e-3, epochs=4), None)[1])


def test_the_papers_protocol_says_that_it_is(request_of, monkeypatch):
    monkeypatch.setattr(linear_run, "measure", lambda *a, **options: [{"train_loss": 0.0, "top1": 1.0, "top5": 2.0}])
    request = replace(request_of(), config=LinearConfig(device="cpu", num_workers=0, seed=4))
    protocol = run_readout(request, None, announce=lambda text: None)["protocol"]
    assert protocol["is_paper"] and protocol["differs"] == [] and protocol["views"] == "a new view each epoch"
