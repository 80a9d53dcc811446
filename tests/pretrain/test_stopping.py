"""How a run ends before its end: signals in every phase, a loader process or a rank that is gone or hangs, values that are not finite."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pretrain import train as train_module
from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.base.errors import UserError
from pretrain.data import loader as loader_module
from pretrain.run.checkpoint import checkpoint_path, newest_checkpoint, read_checkpoint
from pretrain.run.monitor import Monitor
from pretrain.run.ranks import Ranks
from pretrain.train import train
from tests.tools.in_process import TOOLS, run_tool_here

STEPS = 4
TINY = [
    *("method.queue_size=16", "method.jigsaw=false", "views.image_size=32", "views.patch_size=16"),
    *("optimizer.batch_size=8", "optimizer.epochs=2", "runtime.device=cpu", "runtime.precision=fp32"),
    *("runtime.checkpoint_every_steps=2", "monitor.every_epochs=1", "monitor.max_images=10"),
]


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch):
    """One block a stage, an eighth as wide."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(bottleneck=False, layers=(1, 1, 1, 1), base_channels=8))


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """Python takes no notice of Ctrl-C where its parent ignores it, as a shell does for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def words_of(images, output, *more, arch="tiny"):
    return [
        "--config-file",
        "smoke",
        "--output-dir",
        output,
        f"data.root={images}",
        f"encoder.arch={arch}",
        *TINY,
        *more,
    ]


def start_phase(send, patch):
    honest = train_module.open_stream
    patch.setattr(train_module, "open_stream", lambda *args, **rest: (send(), honest(*args, **rest))[1])


def step_phase(send, patch):
    honest = train_module.train_step
    patch.setattr(train_module, "train_step", lambda *args, **rest: (send(), honest(*args, **rest))[1])


def save_phase(send, patch):
    honest = torch.save
    patch.setattr(torch, "save", lambda *args, **rest: (send(), honest(*args, **rest))[1])


def monitor_phase(send, patch):
    honest = Monitor._read
    patch.setattr(Monitor, "_figures", lambda *args: pytest.fail("the monitor went on"))
    patch.setattr(Monitor, "_read", lambda *args: (send(), honest(*args))[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("phase", [start_phase, step_phase, save_phase, monitor_phase])
def test_a_signal_in_any_phase_ends_with_its_code_and_loses_nothing(image_folder, tmp_path, phase, number):
    words = words_of(image_folder, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        sent = []

        def send():
            if not sent:
                sent.append(number)
                os.kill(os.getpid(), number)

        phase(send, patch)
        stopped = run_tool_here("pretrain.py", *words)
    assert sent and stopped.returncode == (130 if number == signal.SIGINT else 143), stopped.stderr
    if phase is start_phase:  # nothing to save, and nothing left
        assert not (tmp_path / "run").exists()
    elif phase is monitor_phase:  # that of random weights
        assert "before the first step, nothing to save" in stopped.stderr
    else:
        assert "saved at step" in stopped.stderr
        newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints", quarantine=False)
        assert f"saved at step {int(newest.stem[5:])} of {STEPS}" in stopped.stderr
    again = run_tool_here("pretrain.py", *words)
    assert again.returncode == 0, again.stderr
    model = read_checkpoint(checkpoint_path(tmp_path / "run" / "checkpoints", STEPS))["model"]
    whole = run_tool_here("pretrain.py", *words_of(image_folder, tmp_path / "whole"))
    assert whole.returncode == 0
    wanted = read_checkpoint(checkpoint_path(tmp_path / "whole" / "checkpoints", STEPS))["model"]
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "a loader process was killed"), (signal.SIGSTOP, "no batch came")]
)
# torch raises out of a signal handler, which may come between `open` and the `with` around it: a file is closed by nobody then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loader_process_that_is_killed_or_hangs_ends_the_run_in_time(
    image_folder, tiny_config, tmp_path, monkeypatch, number, words
):
    monkeypatch.setattr(loader_module, "BATCH_TIMEOUT_SECONDS", 3)
    config = tiny_config(
        encoder={"arch": "tiny"}, data={"num_workers": 1}, method={"jigsaw": False}, optimizer={"epochs": 500}
    )
    step, struck = train_module.train_step, []

    def strike(state, *args, **rest):
        if state.step == 3:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, number)
            struck.append(time.monotonic())
        return step(state, *args, **rest)

    monkeypatch.setattr(train_module, "train_step", strike)
    with pytest.raises(UserError, match=rf"{words}.*The newest checkpoint is that of step [24] of 1000"):
        train(config, output_dir=tmp_path / "run", resume=False, ranks=Ranks())
    assert time.monotonic() - struck[0] < 30
    while multiprocessing.active_children():  # a process that waits for them at its end must not hang
        assert time.monotonic() - struck[0] < 40
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_killed_or_stopped_ends_the_other_within_the_timeout(image_folder, tmp_path, free_port, number):
    output, timeout_s = tmp_path / "run", 6
    words = words_of(image_folder, output, arch="resnet18_half")
    words = [word for word in words if "epochs" not in str(word) and "checkpoint_every" not in str(word)]
    words += ["optimizer.epochs=500", "runtime.checkpoint_every_steps=1", f"runtime.timeout_s={timeout_s}"]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(TOOLS / "pretrain.py"), *map(str, words)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(free_port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for _ in range(2400):
            if list((output / "checkpoints").glob("step_0000000[2-9].pt")):
                break
            assert ranks[0].poll() is None, ranks[0].stderr.read()
            time.sleep(0.05)
        ranks[1].send_signal(number)
        struck = time.monotonic()
        _, told = ranks[0].communicate(timeout=60)
        assert time.monotonic() - struck < timeout_s + 20
        assert ranks[0].returncode == 2 and "another rank has ended, or has not answered for" in told
        assert "The newest checkpoint is that of step" in told
        assert newest_checkpoint(output / "checkpoints", quarantine=False)[1]["progress"]["step"] >= 2
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.slow
def test_values_that_are_not_finite_leave_the_numbers_of_their_images(tiny_config, tmp_path, monkeypatch):
    step, batches = train_module.train_step, []

    def poisoned(state, batch, **rest):
        batches.append(batch.index.tolist())
        if state.step == 2:
            with torch.no_grad():
                next(state.method.trained.parameters()).fill_(float("nan"))
        return step(state, batch, **rest)

    monkeypatch.setattr(train_module, "train_step", poisoned)
    config = tiny_config(encoder={"arch": "tiny"}, method={"jigsaw": False})
    with pytest.raises(
        UserError, match=r"the loss is not finite at step 2 .*nonfinite\.json.*checkpoint is that of step 2"
    ):
        train(config, output_dir=tmp_path / "run", resume=False, ranks=Ranks())
    found = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    (rank,) = found["ranks"]
    assert (rank["rank"], rank["not_finite"], rank["loss"], rank["images"]) == (0, "loss", "nan", batches[2])
