"""tools/linear_eval.py as a user runs it: a readout of random weights, of a checkpoint's branches, and bad input."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.base.contract import InputContract
from pretrain.base.record import read_record
from pretrain.model.encoder import ResNetEncoder
from pretrain.run.checkpoint import write_checkpoint
from tests.tools.in_process import run_tool_here
from transfer.readout.features import state_hash

QUICK = [
    "epochs=2",
    "image_size=32",
    "cached_views=1",
    "standardize=true",
    "learning_rate=0.1",
    "num_workers=0",
    "precision=fp32",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 128, (40, 40, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A pre-training checkpoint with two different encoders."""
    model = {"memory.features": torch.zeros(4, 2), "memory.pointer": torch.zeros((), dtype=torch.long)}
    for seed, branch in enumerate(("query", "key")):
        torch.manual_seed(seed)
        model |= {f"{branch}.encoder.{name}": tensor for name, tensor in ResNetEncoder("resnet18").state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "step_00000001.pt"
    rest = {"method": "infomin", "optimizer": {}, "scaler": {}, "progress": {}, "config": {"seed": 7}}
    write_checkpoint(path, {"arch": "resnet18", "contract": InputContract().to_dict(), "model": model, **rest})
    return path


def call(*arguments, cwd):
    return run_tool_here("linear_eval.py", *arguments, cwd=cwd)


@pytest.mark.slow
def test_a_readout_prints_its_figures_and_writes_them(data, tmp_path):
    done = call("--weights", "random:resnet18", "--data", data, "--output-dir", "out", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "out" / "record.json")
    assert f"random: top-1 {record.figures['top1']:.2f} %, top-2 100.00 % (not the paper's protocol: " in done.stdout
    (command,) = record.commands
    assert command.startswith("python ") and "--weights random:resnet18" in command
    other = call("--weights", "random:resnet18", "--data", data, "--output-dir", "out", *QUICK, "seed=1", cwd=tmp_path)
    assert other.returncode == 2 and "seeds.run: 0 there, 1 now" in other.stderr


@pytest.mark.slow
def test_a_checkpoints_branches_are_read_and_named(data, checkpoint, tmp_path):
    records = {}
    for name, options in {"default": [], "key": ["--branch", "key"]}.items():
        output = tmp_path / name
        options = ["--weights", checkpoint, "--data", data, "--output-dir", output, "--init-name", name, *options]
        done = call(*options, *QUICK, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        records[name] = read_record(output / "record.json")
    for seed, name in enumerate(("default", "key")):
        torch.manual_seed(seed)
        assert records[name].details["encoder"]["state_sha256"] == state_hash(ResNetEncoder("resnet18"))
        assert records[name].initialisation.name == name
        assert records[name].seeds == {"run": 0, "pretraining": 7}
    assert records["default"].history != records["key"].history
    hashes = {record.initialisation.pretraining["hash"] for record in records.values()}
    assert len(hashes) == 2 and records["default"].hash == records["key"].hash  # other encoders, one experiment


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--data": "nothing"}, "no folder"),
        ({"--weights": "truncated"}, "damaged.pt"),
        ({"override": "epoch=2"}, "did you mean `epochs`"),
    ],
)
def test_bad_input_ends_with_2_a_sentence_and_no_output(data, checkpoint, tmp_path, changed, words):
    if changed.get("--weights") == "truncated":
        (tmp_path / "damaged.pt").write_bytes(checkpoint.read_bytes()[:100_000])
        changed = {"--weights": "damaged.pt"}
    options = {"--weights": "random:resnet18", "--data": data, "--output-dir": "out", **changed}
    override = options.pop("override", "seed=0")
    done = call(*[word for pair in options.items() for word in pair], *QUICK, override, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_few_images_get_a_small_readout_at_their_own_size_and_the_reason_is_printed(data, tmp_path):
    words = ("--weights", "random:resnet18", "--data", data, "epochs=1", "num_workers=0", "precision=fp32")
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a small readout at 32 px (the images' own size, 32 px): 12 training images" in done.stdout
    assert "standardize=true" in done.stdout and "--config-file imagenet_r50" in done.stdout


def test_unreadable_images_are_refused_with_the_switch_that_leaves_them_out(data, tmp_path):
    damaged = shutil.copytree(data, tmp_path / "damaged")
    next((damaged / "train").rglob("*.*")).write_bytes(b"")
    words = ("--weights", "random:resnet18", "--data", damaged, *QUICK)
    refused = call(*words, cwd=tmp_path)
    assert refused.returncode == 2 and "train: 1 of 12 images cannot be read" in refused.stderr
    assert "pass --skip-unreadable to leave them out" in refused.stderr
    done = call(*words, "--skip-unreadable", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out (--skip-unreadable)" in done.stdout and "11 training" in done.stdout


def test_the_papers_protocol_is_a_name_away_from_any_folder(data, tmp_path):
    words = ("--weights", "random:resnet18", "--data", data, "--config-file", "imagenet_r50")
    done = call(*words, "epochs=1", "image_size=32", "num_workers=0", "precision=fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(not the paper's protocol: epochs=1, image_size=32)" in done.stdout  # nothing else differs
