"""A readout from request to result: what is written, what is not repeated, what is refused, and the sabotaged encoder."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, DataError, Terminated, UserError
from pretrain.base.record import read_record
from pretrain.data.source import ImageSource
from pretrain.run.precision import Precision
from transfer.readout import run as linear_run
from transfer.readout.config import LinearConfig
from transfer.readout.features import FrozenEncoder, load_frozen_encoder, state_hash
from transfer.readout.linear import Trained
from transfer.readout.run import OLD_RESULT, OLD_STARTED, Request, run_readout

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


def test_the_record_holds_what_a_table_needs(request_of, class_folders, tmp_path):
    record, said = run(request_of(images_per_class=2), tmp_path / "out")
    assert read_record(tmp_path / "out" / "record.json") == record
    assert (record.kind, record.status, record.seeds["run"]) == ("readout", "done", 0)
    assert (record.initialisation.name, record.initialisation.random_seed) == ("random", 0)
    train, test = record.data["train"], record.data["test"]
    assert (train.num_images, train.num_available, test.num_images) == (6, 21, 12)
    assert (
        train.fingerprint == ImageSource(class_folders / "train").fingerprint()
    )  # the whole split, whatever was drawn
    assert record.class_names == ("blue", "green", "red") and record.commands == ("python tools/linear_eval.py",)
    assert record.figures == {"top1": record.history[-1]["top1"], "top5": 100.0} and len(record.history) == 2
    protocol = record.details["protocol"]
    assert protocol["is_paper"] is False and "cached_views=1" in protocol["differs"]
    assert protocol["top5_k"] == 3 and any("top-3" in line for line in said)
    assert record.cost.images == 6 and record.cost.seconds > 0


def test_every_validation_image_stands_in_the_predictions_with_its_figures(request_of, class_folders, tmp_path):
    record = run_readout(request_of(), tmp_path / "out", announce=print)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == list(ImageSource(class_folders / "val").names)
    assert all(row["label"] == row["image"].partition("/")[0] for row in rows)
    right = [row["label"] == row["predicted"] for row in rows]
    assert record.figures["top1"] == pytest.approx(100 * sum(right) / len(rows))
    assert record.figures["top5"] == pytest.approx(100 * sum(row["in_top5"] == "1" for row in rows) / len(rows))


def test_an_experiment_is_data_settings_encoder_and_precision_and_not_who_is_measured(request_of, tmp_path):
    def hash_of(**over):
        return run(request_of(**over), None)[0].hash

    assert (
        hash_of() == hash_of(seed=1) == hash_of(init="other", device="auto" if not torch.cuda.is_available() else "cpu")
    )
    assert hash_of(precision="auto") == hash_of()  # of the fake encoder below: fp32 in both
    others = ({"learning_rate": 0.2}, {"images_per_class": 2}, {"fraction": 0.5}, {"cached_views": 2}, {"epochs": 3})
    assert len({hash_of(), *(hash_of(**over) for over in others)}) == 6


def test_a_setting_that_older_records_lack_does_not_change_their_experiment(request_of):
    record, _ = run(request_of(), None)
    assert not {"classifier_start", "fraction"} & set(record.experiment["config"])
    assert run(request_of(classifier_start="normal"), None)[0].experiment["config"]["classifier_start"] == "normal"


def test_the_record_carries_the_hash_of_the_weights_that_were_read(request_of, small_encoder):
    encoder = small_encoder("random:resnet18", TINY, branch=None)
    found = run(request_of(), None)[0].details["encoder"]
    assert found == {"unchanged": True, "state_sha256": state_hash(encoder.module)}


def test_without_an_output_directory_nothing_is_written(request_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(request_of(), None)
    assert list(tmp_path.iterdir()) == []


def test_equal_readouts_give_equal_results_and_seeds_differ(request_of):
    first, again, other = (run(request_of(seed=seed), None)[0] for seed in (0, 0, 1))
    assert first.history == again.history != other.history and first.figures == again.figures


def test_an_encoder_that_moves_ends_the_readout_without_a_result(request_of, tmp_path, monkeypatch):
    honest = FrozenEncoder.features

    def features_in_training_mode(self, images):
        self.module.train()  # batch statistics, and running averages that follow the data
        return honest(self, images)

    monkeypatch.setattr(FrozenEncoder, "features", features_in_training_mode)
    with pytest.raises(AssertionError, match="frozen encoder moved"):
        run(request_of(), tmp_path / "out")
    record = read_record(tmp_path / "out" / "record.json")
    assert (record.status, record.figures) == ("failed", {}) and "frozen encoder moved" in record.error


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
        ({"seed": 1}, r"seeds\.run: 0 there, 1 now"),
        ({"learning_rate": 0.2}, r"config\.learning_rate: 0\.1 there, 0\.2 now"),
        ({"init": "other"}, "initialisation: 'random' there, 'other' now"),
    ],
)
def test_another_readout_does_not_replace_a_finished_one(request_of, tmp_path, monkeypatch, over, word):
    run(request_of(), tmp_path / "out")
    before = (tmp_path / "out" / "record.json").read_bytes()
    forbid_measuring(monkeypatch)
    with pytest.raises(ConfigError, match=f"finished readout with another configuration .*{word}"):
        run(request_of(**over), tmp_path / "out")
    assert (tmp_path / "out" / "record.json").read_bytes() == before


def test_another_branch_does_not_replace_a_finished_one(request_of, tmp_path):
    run(request_of(), tmp_path / "out")
    with pytest.raises(ConfigError, match="branch: None there, 'key' now"):
        run(replace(request_of(), branch="key"), tmp_path / "out")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": 3}', '{"identity": null}'])
def test_a_damaged_result_is_named(request_of, tmp_path, content):
    for name, error in ((OLD_RESULT, ConfigError), ("record.json", DataError)):
        (tmp_path / name).write_text(content)
        with pytest.raises(error, match=name):
            run(request_of(), tmp_path)


def old_result(request, record):
    """linear_result.json as the version before records wrote it."""
    config = {key: value for key, value in record.config.items() if key not in ("num_workers", "device")}
    data = {"train": record.data["train"].fingerprint, "val": record.data["test"].fingerprint}
    identity = {"weights": request.weights, "branch": None, "init": "random", "config": config, "data": data}
    figures = {"top1": 12.5, "top5": 100.0, "history": [{"top1": 12.5, "top5": 100.0}]}
    return {**figures, "encoder": {"unchanged": True, "state_sha256": "x"}, "identity": identity}


def test_a_readout_that_an_older_version_finished_is_not_run_again_and_another_is_refused(
    request_of, tmp_path, monkeypatch
):
    record, _ = run(request_of(), None)
    old = json.dumps(old_result(request_of(), record), default=list)
    (tmp_path / OLD_RESULT).write_text(old)
    forbid_measuring(monkeypatch)
    found, said = run(request_of(init=None), tmp_path)
    assert (
        found.figures == {"top1": 12.5, "top5": 100.0} and found.hash == record.hash and "finished already" in said[0]
    )
    with pytest.raises(ConfigError, match=r"config\.seed: 0 there, 1 now"):
        run(request_of(seed=1), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {OLD_RESULT, "run.lock"}


def test_a_readout_that_is_terminated_says_so(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(linear_run, "measure", lambda *arguments, **options: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated):
        run(request_of(), tmp_path / "out")
    assert read_record(tmp_path / "out" / "record.json").status == "stopped"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupted_readout_starts_again(request_of, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(linear_run, "measure", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(request_of(), tmp_path / "out")
    assert read_record(tmp_path / "out" / "record.json").status == "stopped"
    (tmp_path / "out" / ".record.json.123.tmp").write_text("cut short by a kill")
    (tmp_path / "out" / OLD_STARTED).write_text("of a kill before records were written")
    done, _ = run(request_of(), tmp_path / "out")
    assert (done.status, len(done.commands)) == ("done", 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"record.json", "predictions.csv", "run.lock"}


def test_a_readout_that_did_not_finish_gives_way_to_another(request_of, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(linear_run, "measure", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        run(request_of(command="first"), tmp_path / "out")
    done, _ = run(request_of(command="other", learning_rate=0.2), tmp_path / "out")
    assert done.commands == ("other",) and done.config["learning_rate"] == 0.2


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
    record = read_record(tmp_path / "out" / "record.json")
    assert (record.status, record.figures) == ("failed", {}) and "diverged" in record.error


def test_a_rate_that_is_far_too_high_is_announced_once_in_the_epoch_that_shows_it(request_of):
    lines = [line for line in run(request_of(learning_rate=1e6), None)[1] if "constant answer" in line]
    assert len(lines) == 1 and lines[0].startswith(("epoch 1:", "epoch 2:")) and "pass learning_rate=100000" in lines[0]
    assert not any("constant answer" in line for line in run(request_of(learning_rate=1e-3, epochs=4), None)[1])


def test_the_papers_protocol_says_that_it_is(request_of, monkeypatch):
    one = Trained(({"train_loss": 0.0, "top1": 1.0, "top5": 2.0},), torch.zeros(1, 1))
    monkeypatch.setattr(linear_run, "measure", lambda *a, **options: one)
    request = replace(request_of(), config=LinearConfig(device="cpu", num_workers=0, seed=4))
    protocol = run_readout(request, None, announce=lambda text: None).details["protocol"]
    assert protocol["is_paper"] and protocol["differs"] == [] and protocol["views"] == "a new view each epoch"
