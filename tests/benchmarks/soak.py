"""A two-process pre-training killed at random, 200 times and more: what is lost, and what a plain save loses in its place.

    python tests/benchmarks/soak.py [--kills 200] [--control-kills 60] [--seed 0] [--output soak.json]

Each start is `tools/pretrain.py` on two gloo ranks with the same command, in two processes forked from this one, which has torch
loaded: a start then takes half a second and not ten. One rank or both get SIGKILL after a random time, or at a random moment of a
save; the rank that is left must end by itself. Then the same command goes on, until the run is finished; then another one begins.
Compared with a run that nobody disturbed: the last state bit by bit, and the figures of every logged step.

The control saves as `torch.save(state, path)` does, straight to the final name; everything else is the same.
Out: JSON with the counts; exit code 1 when anything was lost, or when the control lost nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import random
import runpy
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pretrain.run.checkpoint
import pretrain.train  # so that every fork has it
from pretrain.base.errors import CheckpointError
from pretrain.run.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2
HANG_SECONDS = 60.0  # what a start may take that is not disturbed, or a rank to notice that the other one is gone
TINY = (
    "encoder.arch=resnet18_half",
    "method.queue_size=20",  # no multiple of the batch
    "method.momentum=0.9",
    "views.image_size=32",
    "views.patch_size=20",
    "optimizer.batch_size=8",
    "optimizer.epochs=10",
    "runtime.device=cpu",
    "runtime.precision=fp32",
    "runtime.checkpoint_every_steps=1",
    "runtime.log_every_steps=1",
    "runtime.timeout_s=10",
)


@dataclass
class Arm:
    """What happened. lost: published checkpoints that could not be read, or were gone, after a kill.

    during_save: kills that left a file half written. refused: starts that ended with an error of their own.
    survivor_seconds: from the kill of one rank to the end of the other.
    """

    kills: int = 0
    kills_of_one_rank: int = 0
    during_save: int = 0
    starts: int = 0
    runs: int = 0
    lost: int = 0
    refused: int = 0
    hangs: int = 0
    runs_that_ended_differently: int = 0
    steps_compared: int = 0
    steps_that_differ: int = 0
    seconds: float = 0.0
    survivor_seconds: list[float] = field(default_factory=list)


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(18):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def command(images: Path, output: Path, workers: int) -> list[str]:
    where = ["--config-file", "smoke", "--output-dir", str(output), f"data.root={images}"]
    return [str(ROOT / "tools" / "pretrain.py"), *where, *TINY, f"data.num_workers={workers}"]


@contextmanager
def plain_file(path: Path, **_):
    """In place of `atomic_file`: the final name from the first byte on."""
    with open(path, "wb") as file:
        yield file


def start(words: list[str], log: Path, *, naive: bool) -> list[int]:
    """The process numbers of both ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            _be_a_rank(rank, port, words, log, naive=naive)
        children.append(child)
    return children


def _be_a_rank(rank: int, port: int, words: list[str], log: Path, *, naive: bool) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if naive:
            pretrain.run.checkpoint.atomic_file = plain_file
        sys.argv = words
        sys.path.insert(0, str(ROOT / "tools"))  # the script takes its own folder off
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(children: list[int], seconds: float) -> list[int] | None:
    """Exit codes (-9: killed) of all, None when one still runs after `seconds`."""
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return None
        time.sleep(0.002)
    return [codes[child] for child in children]


def published(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").glob("step_*.pt"))


def wait_to_kill(children: list[int], output: Path, draw: random.Random, mean_start: float) -> bool:
    """Until the moment of the kill; False when a rank has ended by then."""

    def ended() -> bool:
        return any(os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) for child in children)

    if draw.random() < 0.5:  # any time of the start and the steps after it
        end = time.monotonic() + draw.uniform(0.0, 2.5 * mean_start)
        while time.monotonic() < end and not ended():
            time.sleep(0.002)
        return not ended()
    # In a save, or just before or after it: from its first byte on.
    saves, seen, deadline = draw.randint(1, 4), set(), time.monotonic() + HANG_SECONDS
    before = set(published(output))
    while time.monotonic() < deadline and not ended():
        if (output / "checkpoints").is_dir():
            writing = {path.name.split(".pt")[0].lstrip(".") for path in (output / "checkpoints").iterdir()}
            seen |= writing - {name.split(".pt")[0] for name in before}
            if len(seen) >= saves:
                time.sleep(draw.uniform(0.0, 0.06))
                return not ended()
        time.sleep(0.0005)
    return False


def figures(output: Path) -> dict[int, dict[str, float]]:
    """What the log says of each step, without what is timed."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {
        line["step"]: {k: v for k, v in line.items() if k in ("loss", "accuracy", "learning_rate")}
        for line in lines
        if "loss" in line  # not the monitor's
    }


def state_hash(output: Path) -> str:
    """Of every tensor of the last checkpoint, optimiser included."""
    state = read_checkpoint(output / "checkpoints" / published(output)[-1])
    digest = hashlib.sha256()
    momenta = {str(key): value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    for name, tensor in sorted({**state["model"], **momenta}.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return f"{state['progress']['step']} {digest.hexdigest()}"


def kill_once(arm: Arm, children: list[int], output: Path, draw: random.Random) -> None:
    """Kill one rank or both, wait for what is left, and look at the checkpoints."""
    victims = draw.choice([children[:1], children[1:], children])
    before = published(output)
    then = time.monotonic()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    arm.kills += 1
    codes = wait(children, HANG_SECONDS)
    if codes is None:
        arm.hangs += 1
    if len(victims) == 1:
        arm.kills_of_one_rank += 1
        arm.survivor_seconds.append(round(time.monotonic() - then, 2))
    folder = output / "checkpoints"
    arm.during_save += any(folder.glob(".*.tmp"))
    for name in published(output)[-2:]:  # those that no later one has replaced
        try:
            read_checkpoint(folder / name)
        except CheckpointError:
            arm.lost += 1
            arm.during_save += not any(folder.glob(".*.tmp"))
    after = published(output)
    arm.lost += bool(before) and (not after or after[-1] < before[-1])


def run_until_done(
    arm: Arm, images: Path, output: Path, *, draw: random.Random, kills: int, mean_start: float, naive: bool
) -> bool:
    """One run from nothing to its end through kills, until `arm` has had `kills`. False when it cannot go on."""
    workers = draw.choice([0, 0, 1])
    while True:
        arm.starts += 1
        children = start(command(images, output, workers), output.with_suffix(".log"), naive=naive)
        if arm.kills < kills and wait_to_kill(children, output, draw, mean_start):
            kill_once(arm, children, output, draw)
            continue
        codes = wait(children, HANG_SECONDS)
        if codes is None:
            arm.hangs += 1
        elif any(codes):
            arm.refused += 1
            return False
        else:
            return True


def soak(
    kills: int, *, seed: int, naive: bool, folder: Path, images: Path, undisturbed: Path, mean_start: float
) -> Arm:
    """As many runs as it takes for `kills` kills."""
    arm, draw = Arm(), random.Random(seed)
    began = time.monotonic()
    wanted, wanted_figures = state_hash(undisturbed), figures(undisturbed)
    while arm.kills < kills:
        output = folder / f"{'naive' if naive else 'run'}{arm.runs}"
        arm.runs += 1
        finished = run_until_done(arm, images, output, draw=draw, kills=kills, mean_start=mean_start, naive=naive)
        if finished:
            arm.runs_that_ended_differently += state_hash(output) != wanted
            found = figures(output)
            arm.steps_compared += len(found)
            arm.steps_that_differ += sum(found.get(step) != values for step, values in wanted_figures.items())
        elif not naive:
            print(output.with_suffix(".log").read_text()[-2000:])
        shutil.rmtree(output)
        print(f"{'control' if naive else 'soak'}: {arm.kills} kills, {arm.runs} runs, {arm.lost} lost", flush=True)
    arm.seconds = round(time.monotonic() - began, 1)
    return arm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--control-kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a JSON file with the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of this process, which looks at damaged files on purpose
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, undisturbed = folder / "images", folder / "undisturbed"
        write_images(images)
        began = time.monotonic()
        codes = wait(start(command(images, undisturbed, 0), folder / "undisturbed.log", naive=False), 10 * HANG_SECONDS)
        if codes != [0] * RANKS:
            print((folder / "undisturbed.log").read_text()[-2000:])
            return 1
        whole = time.monotonic() - began
        known = {"folder": folder, "images": images, "undisturbed": undisturbed, "mean_start": whole / 8}
        ours = soak(arguments.kills, seed=arguments.seed, naive=False, **known)
        control = soak(arguments.control_kills, seed=arguments.seed, naive=True, **known)
        steps = len(figures(undisturbed))
    broken = ours.lost + ours.refused + ours.hangs + ours.runs_that_ended_differently + ours.steps_that_differ
    result = {
        "what": f"SIGKILL of a {RANKS}-process gloo run of {steps} steps, a checkpoint each step",
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "torch": torch.__version__},
        "undisturbed_seconds": round(whole, 1),
        "ours": summary(ours),
        "control": summary(control),
        "control_is": "torch.save straight to the final name",
    }
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if broken or not control.lost else 0


def summary(arm: Arm) -> dict:
    """The counts, and of the times the middle and the largest."""
    values = asdict(arm)
    seconds = values.pop("survivor_seconds") or [0.0]
    return {**values, "survivor_seconds": {"median": statistics.median(seconds), "largest": max(seconds)}}


if __name__ == "__main__":
    sys.exit(main())
