"""tools/pretrain.py as a user runs it: killed and resumed runs, two gloo ranks, exit codes, a preview that leaves nothing."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pretrain.base.record import read_record
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint
from tests.cases import each
from tests.tools.in_process import run_tool_here

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "encoder.arch=resnet18_half",
    "method.queue_size=20",
    "views.image_size=32",
    "views.patch_size=20",
    "optimizer.batch_size=8",
    "optimizer.epochs=10",
    "runtime.precision=fp32",
    "runtime.checkpoint_every_steps=1",
    "runtime.log_every_steps=1",
]
STEPS = 20


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
    return ["--config-file", "smoke", "--output-dir", output, f"data.root={images}", *TINY, *more]


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


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The weights of an unbroken run on one rank."""
    output = tmp_path_factory.mktemp("whole")
    result = call(*arguments_of(images, output))
    assert result.returncode == 0, result.stderr
    return state_hash(output)


@pytest.mark.slow
def test_sigterm_saves_exits_143_and_the_same_command_again_ends_identically(images, whole, tmp_path):
    process = start(*arguments_of(images, tmp_path / "cut"))
    wait_for_checkpoint(tmp_path / "cut", process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert read_record(tmp_path / "cut" / "record.json").status == "stopped"
    resumed = call(*arguments_of(images, tmp_path / "cut"))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step_" in resumed.stderr
    assert state_hash(tmp_path / "cut") == whole


@pytest.mark.slow
def test_two_gloo_ranks_survive_sigkill_bit_exactly(images, whole, tmp_path):
    unbroken = call(*arguments_of(images, tmp_path / "whole"), ranks=2)
    assert unbroken.returncode == 0, unbroken.stderr
    process = start(*arguments_of(images, tmp_path / "cut"), ranks=2)
    wait_for_checkpoint(tmp_path / "cut", process, 3)
    for victim in (*psutil.Process(process.pid).children(recursive=True), process):  # ranks have sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait(timeout=60)
    killed = read_record(tmp_path / "cut" / "record.json")
    assert killed.status == "running" and killed.holder["pid"] != process.pid  # a rank's, not the launcher's
    assert killed.cost.images >= 2 * 8  # of the checkpoints that are there
    resumed = call(*arguments_of(images, tmp_path / "cut"), ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step_" in resumed.stderr
    assert state_hash(tmp_path / "cut") == state_hash(tmp_path / "whole")
    done = read_record(tmp_path / "cut" / "record.json")
    assert done.status == "done" and len(done.commands) == 2
    assert done.cost.images >= STEPS * 8 and done.cost.device_seconds == pytest.approx(2 * done.cost.seconds, abs=0.01)
    assert whole != state_hash(tmp_path / "whole")  # the control: with one rank BatchNorm sees other batches


@each(
    ("arguments", "message"),
    [
        (["--config-file", "configs/pretrain/smok.yaml"], "did you mean smoke.yaml?"),
        (["--config-file", "smoke", "optimizer.epoch=3"], "command line: unknown key `optimizer.epoch`; did you mean"),
        (["--config-file", "smoke", "method.name=moco_v2"], "pass --method moco_v2"),
        (["--config-file", "smoke"], "no --output-dir given"),
        (["--config-file", "smoke", "--profile", "--slurm", "gpu"], "--profile runs here, not as a job of Slurm"),
        (
            ["--config-file", "smoke", "--output-dir", "out", "data.root=absent/images"],
            "absent/images: expected a folder",
        ),
    ],
)
def test_user_errors_exit_2_with_one_message_and_leave_nothing(tmp_path, arguments, message):
    result = run_tool_here("pretrain.py", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_continues_and_another_configuration_is_refused(images, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(images.parent))
    command = arguments_of(f"~/{images.name}", "out", "optimizer.batch_size=18", "runtime.device=cpu")
    command = [word for word in command if word not in ("optimizer.batch_size=8", "optimizer.epochs=10")]

    def run(*words):
        return run_tool_here("pretrain.py", *words, cwd=tmp_path)

    assert run(*command, "optimizer.epochs=1").returncode == 0
    assert run(*command, "optimizer.epochs=1").returncode == 0  # finished: nothing to do
    other = run(*command, "optimizer.epochs=2")
    assert other.returncode == 2 and "holds a run with another configuration" in other.stderr
    never = run("--resume", "never", *command, "optimizer.epochs=1")
    assert never.returncode == 2 and "already holds a run" in never.stderr


@pytest.mark.slow
def test_a_preview_shows_the_resolved_run_and_leaves_nothing(images, tmp_path):
    """Overrides on both sides of the flags, a shipped file from another folder, another method."""
    result = run_tool_here(
        "pretrain.py", f"data.root={images}", "--show-views", "views.png", "--method", "moco_v2", "optimizer.epochs=7",
        "--config-file", "smoke", "--dry-run", "optimizer.batch_size=4", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout.partition("== resolved configuration")[2].partition("\n\n")[0])
    assert (resolved["optimizer"]["epochs"], resolved["optimizer"]["batch_size"]) == (7, 4)
    assert (resolved["method"]["temperature"], resolved["views"]["recipe"]) == (0.2, "moco_v2")
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.height > 4 * 32 and picture.width > 3 * 32  # originals and two views of four images
    assert [path.name for path in tmp_path.iterdir()] == ["views.png"]


def test_of_several_ranks_the_first_one_alone_previews(images, tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    words = (f"data.root={images}", "--config-file", "smoke", "--dry-run", "--show-views", "views.png")
    result = run_tool_here("pretrain.py", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout, list(tmp_path.iterdir())) == (0, "", [])


def test_views_are_not_drawn_into_a_folder_that_is_not_there(images, tmp_path):
    words = (f"data.root={images}", "--config-file", "smoke", "--show-views", "absent/views.png")
    result = run_tool_here("pretrain.py", *words, cwd=tmp_path)
    assert result.returncode == 2 and "no folder absent" in result.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tool", ["pretrain.py", "moving_mnist.py", "discrete_world.py"])
def test_ctrl_c_while_torch_is_imported_is_no_traceback(monkeypatch, tool):
    honest = builtins.__import__

    def interrupted(name, *arguments, **options):
        if name.startswith(("pretrain.", "transfer.")) and not name.startswith("pretrain.base"):
            raise KeyboardInterrupt
        return honest(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    result = run_tool_here(tool)
    assert (result.returncode, result.stderr) == (130, "interrupted\n")
