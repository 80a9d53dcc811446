"""The commands on a CUDA device: `pytest -m gpu`. Everything else in the suite runs without one; speed is tools/gpu_check.py's part."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.base.record import read_record
from pretrain.gpu_check.checks import deterministic
from pretrain.gpu_check.run import DETERMINISTIC_CUBLAS
from pretrain.model.encoder import ResNetEncoder
from tests.tools.in_process import run_tool_here
from transfer.demo_data.config import SyntheticConfig
from transfer.demo_data.write import write_dataset
from transfer.detect.examples import TrainingLoader
from transfer.detect.trainer import DetectionTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and pytest -m gpu"),
    pytest.mark.filterwarnings("default"),  # of the libraries, by version
]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_CUBLAS)  # before the device is first used
ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("encoder.arch=resnet18_half", "views.image_size=32", "views.patch_size=20", "optimizer.batch_size=16"),
    *("method.queue_size=64", "optimizer.epochs=2", "runtime.device=cuda", "runtime.log_every_steps=1"),
)
QUICK = (
    *(
        "SOLVER.MAX_ITER",
        "6",
        "SOLVER.IMS_PER_BATCH",
        "4",
        "TEST.EVAL_PERIOD",
        "0",
        "INPUT.MIN_SIZE_TRAIN",
        "(96,)",
        "INPUT.MIN_SIZE_TEST",
        "96",
    ),
    *("MODEL.DEVICE", "cuda", "SEED", "1", "DATALOADER.NUM_WORKERS", "2"),
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "demo"
    write_dataset(
        SyntheticConfig(num_unlabelled=32, num_readout=40, num_train_scenes=8, num_test_scenes=6), root, num_workers=1
    )
    return root


def pretrain(demo: Path, output: Path, *words: str) -> list[float]:
    """Losses of a pre-training on the device."""
    done = run_tool_here("pretrain.py", "--output-dir", output, f"data.root={demo / 'unlabelled'}", *SMALL, *words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert read_record(output / "record.json").environment["latest"]["cuda"]["devices"]
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses and all(map(math.isfinite, losses))
    return losses


def detect(demo: Path, output: Path, *opts: str, resume: bool = False, code: int = 0) -> None:
    """A fine-tuning on the device; opts: further values of the configuration."""
    data = [
        word
        for split in ("train", "test")
        for word in (f"--{split}-data", f"coco:{demo}/coco/annotations/instances_{split}.json:{demo}/coco/{split}")
    ]
    done = run_tool_here(
        *("train_net.py", "--config-file", "demo/R_18_FPN.yaml", "--init", "random", *data),
        *(["--resume"] if resume else []),
        *("OUTPUT_DIR", output, *QUICK, *opts),
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]


METHODS = ("instdis", "cmc", "moco_v1", "pirl", "moco_v2", "cmc_v2", "infomin", "simclr")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(demo: Path, tmp_path: Path, method: str) -> None:
    assert pretrain(demo, tmp_path / "run", "--method", method)


@pytest.mark.parametrize("words", [["fp16"], ["bf16"], ["bf16", "runtime.compile=true"]], ids=" ".join)
def test_number_types_and_the_compiler_start_at_the_loss_of_float32(
    demo: Path, tmp_path: Path, words: list[str]
) -> None:
    precision, *more = words
    expected = pretrain(demo, tmp_path / "fp32", "--method", "infomin", "runtime.precision=fp32")
    found = pretrain(demo, tmp_path / "other", "--method", "infomin", f"runtime.precision={precision}", *more)
    assert found[0] == pytest.approx(expected[0], rel=0.02)


def test_torchrun_trains_through_nccl(demo: Path, tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(ROOT / "tools" / "pretrain.py")]
    words += ["--method", "moco_v2", "--output-dir", str(tmp_path), f"data.root={demo / 'unlabelled'}", *SMALL]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": _path()}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_record(tmp_path / "record.json").status == "done"


def _path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def test_a_full_gpu_ends_a_run_with_what_to_change(demo: Path, tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        words = ("--method", "moco_v2", "--output-dir", tmp_path / "run", f"data.root={demo / 'unlabelled'}")
        done = run_tool_here("pretrain.py", *words, "encoder.arch=resnet50", *SMALL[1:])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.returncode == 2 and "the GPU's memory is full" in done.stderr, done.stderr[-2000:]
    assert read_record(tmp_path / "run" / "record.json").status == "failed"


def weights(run: Path) -> torch.Tensor:
    model = torch.load(run / "model_final.pth", map_location="cpu", weights_only=False)["model"]
    return torch.cat([value.flatten().double() for value in model.values()])


@pytest.mark.parametrize("amp", ["False", "True"])
def test_a_stopped_fine_tuning_goes_on_with_the_images_and_draws_of_an_undisturbed_one(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str
) -> None:
    """Kernels that add atomically are not exact, and near-equal scores of a young detector turn their last bit into other proposals:
    deterministic kernels where there are any, and a second undisturbed run says how far the others lead away. The control goes on
    with the first images again."""
    words = ("SOLVER.AMP.ENABLED", amp)
    step, iterate = DetectionTrainer.run_step, TrainingLoader.__iter__

    def stopping(trainer: DetectionTrainer) -> None:
        step(trainer)
        if trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def from_the_first(loader: TrainingLoader) -> Iterator[Any]:
        loader.first = 0
        return iterate(loader)

    with deterministic():
        for name in ("whole", "again"):
            detect(demo, tmp_path / name, *words)
        for name in ("stopped", "control"):
            with monkeypatch.context() as patch:
                patch.setattr(DetectionTrainer, "run_step", stopping)
                detect(demo, tmp_path / name, *words, code=143)
            with monkeypatch.context() as patch:
                if name == "control":
                    patch.setattr(TrainingLoader, "__iter__", from_the_first)
                detect(demo, tmp_path / name, *words, resume=True)
            assert re.search("Starting training from iteration [2-5]", (tmp_path / name / "log.txt").read_text())
    expected = weights(tmp_path / "whole")
    found, noise, control = ((weights(tmp_path / name) - expected).norm() for name in ("stopped", "again", "control"))
    assert found <= 3 * noise and found < 0.3 * control, (found, noise, control)


def test_a_detector_trained_on_the_gpu_finds_the_same_on_the_cpu(demo: Path, tmp_path: Path) -> None:
    detect(demo, tmp_path / "run", "SOLVER.MAX_ITER", "40")
    boxes = {}
    for device in ("cuda", "cpu"):
        done = run_tool_here(
            *("predict.py", tmp_path / "run", demo / "coco" / "test", "--output-dir", tmp_path / device),
            *("--threshold", "0", "--opts", "MODEL.DEVICE", device),
        )
        assert done.returncode == 0, done.stderr[-2000:]
        rows = json.loads((tmp_path / device / "coco_results.json").read_text())
        best = sorted(rows, key=lambda row: (row["image_id"], -row["score"]))
        boxes[device] = {
            name: max((r["score"], *r["bbox"]) for r in best if r["image_id"] == name)
            for name in {r["image_id"] for r in best}
        }
    assert boxes["cuda"].keys() == boxes["cpu"].keys() and boxes["cuda"]  # an image may have no box after so few steps
    for name, found in boxes["cuda"].items():
        assert found[0] == pytest.approx(boxes["cpu"][name][0], abs=0.01)
        assert found[1:] == pytest.approx(boxes["cpu"][name][1:], abs=0.5)


def test_a_readout_on_the_gpu_is_that_of_the_cpu(demo: Path, tmp_path: Path) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
        torch.manual_seed(0)
        network = ResNetEncoder("resnet18").eval().to(device)
        with torch.no_grad():
            found[device] = network(images).double().cpu()
    difference = (found["cuda"] - found["cpu"]).norm() / found["cpu"].norm()
    assert difference < 0.01  # TF32 convolutions have 10 bits


def test_one_command_compares_on_the_gpu(demo: Path, tmp_path: Path) -> None:
    coco = [f"coco:{demo}/coco/annotations/instances_{split}.json:{demo}/coco/{split}" for split in ("train", "test")]
    done = run_tool_here(
        *("compare.py", "--pool", demo / "unlabelled", "--train", coco[0], "--test", coco[1], "--seeds", 1),
        *("--init", "mine=pretrain", "--init", "random", "--output-dir", tmp_path / "study", "pretrain.epochs=1"),
        *("pretrain.config_file=smoke", "pretrain.overrides=[method.queue_size=64]"),
        *(
            "detect.iterations=4",
            "detect.overrides=[INPUT.MIN_SIZE_TRAIN, '(96,)', INPUT.MIN_SIZE_TEST, '96', SOLVER.IMS_PER_BATCH, '4']",
        ),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "study" / "report" / "index.html").is_file()
