"""tools/pretrain.py as a user runs it: exit codes, killed and resumed runs, two gloo ranks."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.run.checkpoint import checkpoint_path, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "method.queue_size=20",
    "views.image_size=32",
    "views.patch_size=20",
    "optimizer.batch_size=8",
    "optimizer.epochs=6",
    "runtime.precision=fp32",
    "runtime.checkpoint_every_steps=1",
    "runtime.log_every_steps=1",
]
STEPS = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(18):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return root


def command(*arguments, ranks=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, str(ROOT / "tools" / "pretrain.py"), *map(str, arguments)]


def arguments_of(images, output, *more):
    smoke = ROOT / "configs" / "pretrain" / "smoke.yaml"
    return ["--config-file", smoke, "--output-dir", output, "--resume", "auto", f"data.root={images}", *TINY, *more]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def call(*arguments, ranks=1):
    return subprocess.run(
        command(*arguments, ranks=ranks), capture_output=True, text=True, env=environment(), timeout=300
    )


def start(*arguments, ranks=1):
    return subprocess.Popen(
        command(*arguments, ranks=ranks),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )


def wait_for_checkpoint(output, process, step):
    """Until the checkpoint of `step` or a later one is there."""
    for _ in range(1200):
        names = [path.name for path in (output / "checkpoints").glob("step_*.pt")]
        if any(name >= checkpoint_path(Path(), step).name for name in names):
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no checkpoint appeared")


def state_hash(output):
    model = read_checkpoint(checkpoint_path(output / "checkpoints", STEPS))["model"]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in sorted(model.items()))).hexdigest()


@pytest.mark.slow
def test_sigterm_saves_exits_143_and_the_resumed_run_is_identical(images, tmp_path):
    assert call(*arguments_of(images, tmp_path / "whole")).returncode == 0
    process = start(*arguments_of(images, tmp_path / "cut"))
    wait_for_checkpoint(tmp_path / "cut", process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not (tmp_path / "cut" / "result.json").exists()
    resumed = call(*arguments_of(images, tmp_path / "cut"))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step_" in resumed.stderr
    assert state_hash(tmp_path / "cut") == state_hash(tmp_path / "whole")


@pytest.mark.slow
def test_two_gloo_ranks_survive_sigkill_bit_exactly(images, tmp_path):
    whole = call(*arguments_of(images, tmp_path / "whole"), ranks=2)
    assert whole.returncode == 0, whole.stderr
    process = start(*arguments_of(images, tmp_path / "cut"), ranks=2)
    wait_for_checkpoint(tmp_path / "cut", process, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / "cut")], check=False)  # ranks have sessions of their own
    resumed = call(*arguments_of(images, tmp_path / "cut"), ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step_" in resumed.stderr
    assert state_hash(tmp_path / "cut") == state_hash(tmp_path / "whole")
    one_rank = call(*arguments_of(images, tmp_path / "one"))
    assert one_rank.returncode == 0
    assert state_hash(tmp_path / "one") != state_hash(tmp_path / "whole")  # control: BatchNorm sees other batches


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "configs/pretrain/smok.yaml"], "did you mean"),
        (["--config-file", "configs/pretrain/smoke.yaml", "optimizer.epoch=3"], "did you mean `optimizer.epochs`"),
        (["--config-file", "configs/pretrain/smoke.yaml"], "no --output-dir given"),
        (
            ["--config-file", "configs/pretrain/smoke.yaml", "--output-dir", "OUT", "data.root=/absent/images"],
            "/absent/images",
        ),
    ],
)
def test_user_errors_exit_2_without_a_traceback(tmp_path, arguments, message):
    arguments = [str(tmp_path / "out") if entry == "OUT" else entry for entry in arguments]
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=600
    )
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.slow
def test_dry_run_and_views_sheet_leave_no_run(images, tmp_path):
    sheet = tmp_path / "views.png"
    smoke = ROOT / "configs" / "pretrain" / "smoke.yaml"
    result = call("--config-file", smoke, "--dry-run", "--show-views", sheet, f"data.root={images}")
    assert result.returncode == 0, result.stderr
    for part in ("resolved configuration", "trained parameters", "GFLOP", "learning rate", "ln(K + 1)"):
        assert part in result.stdout
    with Image.open(sheet) as picture:
        assert picture.size[0] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]
