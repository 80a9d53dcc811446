"""The GPU check: its whole path in miniature on the CPU, what counts as passed, and that its measurements see what they are for."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.gpu_check import checks, run, timing
from pretrain.gpu_check.baselines import reference_step
from pretrain.gpu_check.sizes import MINIATURE, batch_that_fits, run_config, sizes_of, synthetic_batch
from pretrain.gpu_check.timing import interleaved
from tests.tools.in_process import run_tool_here

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_miniature_walks_every_part_and_writes_all_figures(tmp_path):
    done = run_tool_here("gpu_check.py", "--miniature", "--output", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    parts = ("speed", "input", "exact_resume", "number_types", "one_rank", "compiled")
    assert not [found[part]["error"] for part in parts if "error" in found[part]]
    assert set(found["speed"]["images_a_second"]) == {
        "moco_v2", "infomin", "supervised", "reference moco_v2", "reference infomin"}  # fmt: skip
    passed = {row["name"]: row["passed"] for row in found["targets"]}
    assert passed["tensors that differ after a resume"] and passed["torchrun with one process"]
    assert found["exact_resume"]["different_in_the_control"] > 0
    assert (
        found["one_rank"]["backend"] == "gloo" and len(found["number_types"]["losses"]["bf16"]) == MINIATURE.loss_steps
    )
    assert "host" not in found["machine"]
    assert done.returncode == 0 and "not judged in miniature" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_what_to_pass(tmp_path):
    done = run_tool_here("gpu_check.py", "--output", tmp_path / "out.json")
    assert done.returncode == 2 and "pass --miniature" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [("--output", "nowhere/out.json"), ("--batch-size", "4"), ("--miniature", "--batch-size", "64")]
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, words):
    assert run_tool_here("gpu_check.py", *words, cwd=tmp_path).returncode == 2


GOOD = {
    "speed": {
        "of_supervised": {"moco_v2": {"median": 0.6}},
        "of_reference": {m: {"median": 2.5} for m in checks.METHODS},
    },
    "input": {m: {"stall": 0.01} for m in checks.METHODS},
    "exact_resume": {"different_after_resume": [], "different_in_the_control": 9},
    "number_types": {"mean_relative_difference": {"bf16": 0.01, "fp16": 0.002}},
    "one_rank": {"ok": True},
}
BAD = {
    "slower than 0.53 of supervised": lambda found: found["speed"]["of_supervised"]["moco_v2"].update(median=0.52),
    "not twice the reference": lambda found: found["speed"]["of_reference"]["infomin"].update(median=1.9),
    "stalls": lambda found: found["input"]["moco_v2"].update(stall=0.02),
    "a bit lost on resume": lambda found: found["exact_resume"].update(different_after_resume=["model.x"]),
    "a control that sees nothing": lambda found: found["exact_resume"].update(different_in_the_control=0),
    "losses apart": lambda found: found["number_types"]["mean_relative_difference"].update(fp16=0.5),
    "a part that failed": lambda found: found.update(one_rank={"error": "left out"}),
}


def test_all_targets_hold_where_all_is_well():
    assert all(row["passed"] for row in run.targets(GOOD, judged=True))


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_each_target_can_be_missed(spoil):
    found = copy.deepcopy(GOOD)
    spoil(found)
    assert [row["passed"] for row in run.targets(found, judged=True)].count(False) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("out of memory\nand much more"), "OutOfMemoryError: out of memory"),
        (TypeError("an argument of another torch"), "TypeError: an argument of another torch"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_part_that_fails_is_recorded_and_the_others_go_on(monkeypatch, error, words):
    def fails(*arguments):
        raise error

    for name in ("speed", "input_stall", "exact_resume", "number_types", "one_rank", "compiled"):
        monkeypatch.setattr(checks, name, lambda *arguments: {})
    monkeypatch.setattr(checks, "speed", fails)
    kept = []
    found = run.gpu_check(
        MINIATURE, CPU, seconds=480, announce=lambda text: None, keep=lambda part: kept.append(list(part)[3:])
    )
    assert found["speed"]["error"] == words and "seconds" in found["compiled"]
    parts = ["speed", "input", "exact_resume", "number_types", "one_rank", "compiled"]
    assert kept == [parts[: count + 1] for count in range(6)]  # of a check that is ended, all but the part at work
    assert f"speed: {words}" in run.table(found)


def test_a_process_that_does_not_answer_is_ended_and_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "RANK_SECONDS", 0.5)
    monkeypatch.setattr(checks.sys, "executable", str(_program(tmp_path, "sleep 60 & echo $! > child; wait")))
    monkeypatch.chdir(tmp_path)
    assert checks.one_rank(MINIATURE, CPU, tmp_path) == {"ok": False, "error": "no answer within 0.5 s"}
    status = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 10  # a busy machine takes its time to end what was killed
    while not (gone := _is_gone(status)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone  # its own child, too


def _is_gone(status):
    """Whether a process has ended, its parent having asked for it or not."""
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_error_under_torchrun_is_told_by_its_own_line(monkeypatch, tmp_path):
    printed = "Traceback\n  File x\n[rank0]: torch.OutOfMemoryError: CUDA out of memory\nE1127 a report of the launcher\n======"
    program = _program(tmp_path, f"printf '{printed}' >&2; exit 1")
    monkeypatch.setattr(checks.sys, "executable", str(program))
    found = checks.one_rank(MINIATURE, CPU, tmp_path)
    assert found == {"ok": False, "error": "[rank0]: torch.OutOfMemoryError: CUDA out of memory"}


def _program(folder, script):
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only while something sleeps: what other processes do to a real clock is not what is tested."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    fake = SimpleNamespace(perf_counter=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(checks, "time", fake)
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_a_slow_source_shows_as_a_stall(clock):
    def batches(wait):
        for number in range(4):
            clock.sleep(wait)
            yield number

    trainer = SimpleNamespace(step=lambda batch: clock.sleep(0.02))

    def measured(wait, at_most=60.0):
        return checks._idle_and_total(trainer, batches(wait), CPU, at_most=at_most)

    shares = [idle / total for idle, total, _ in (measured(0.0), measured(0.02))]
    assert shares == pytest.approx([0, 0.5])
    assert measured(0.0)[2] == 4 and measured(0.02, at_most=0.05)[2] == 2  # a slow source costs its time and no more


def test_turns_are_interleaved_and_each_way_is_timed_alone(clock):
    order: list[str] = []

    def way(name, seconds):
        return lambda: (order.append(name), clock.sleep(seconds))

    found = interleaved({"a": way("a", 0.001), "b": way("b", 0.01)}, turns=3, total_seconds=0.03, device=CPU)
    assert "".join(order) == "ab" + "ab" * 3
    assert found == {"a": pytest.approx([0.001] * 3), "b": pytest.approx([0.01] * 3)}


def test_the_reference_step_learns_and_remembers():
    batch = synthetic_batch(run_config("infomin", MINIATURE, device="cpu"), device=CPU)
    step = reference_step("resnet18_half", batch.images, batch.patches, queue_size=64, temperature=0.2, device=CPU)
    losses = [step() for _ in range(2)]
    assert losses[0] != losses[1] and 2 < losses[0] < 12


def test_the_batch_follows_the_memory():
    assert [batch_that_fits(gib * 2**30) for gib in (80, 40, 16, 8)] == [256, 128, 64, 32]
    assert [sizes_of(images).loss_batch for images in (256, 128, 64, 32)] == [
        64,
        64,
        32,
        16,
    ]  # float32 takes twice the memory


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_is_picked_only_where_there_is_one():
    assert run.pick(miniature=True, batch_size=None) == (MINIATURE, CPU)
    with pytest.raises(ConfigError):
        run.pick(miniature=False, batch_size=None)
