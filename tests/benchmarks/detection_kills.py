"""A small detection training killed at random points, and what its resumed end has in common with an undisturbed one: everything.

    python tests/benchmarks/detection_kills.py [--kills 20] [--control-runs 6] [--seed 0] [--ranks 1] [--output FILE.json]
    python tests/benchmarks/detection_kills.py --brief  # what the tests look at: a kill, two gloo ranks stopped, NaN on one

Each start is `tools/train_net.py` with the same command, in a process forked from this one, which has torch and Detectron2 loaded;
with --ranks 2 in two gloo processes. A run is killed once (SIGKILL), at a random time or at a random moment of a save, and the
same command is given until it ends. Compared with a run that nobody disturbed, bit by bit: every tensor of the last checkpoint,
optimiser included, and of model_best.pth; figures, history and best of the record; metrics.json, times left out.

Controls, each with one part taken out and compared with its own undisturbed run: `position` reads the first images again, `draws`
augments and samples proposals from the global generators as they stand after the start, as Detectron2 does, `plain_save` writes
straight to the final name. Out: JSON; exit code 1 where a run of ours differs or a control does not.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing as processes
from detectron2.engine.launch import _distributed_worker, _find_free_port
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pretrain.base.errors import CheckpointError, run_tool
from pretrain.base.own_files import read_own_file
from pretrain.base.record import read_record
from transfer.demo_data.config import SyntheticConfig
from transfer.demo_data.write import write_dataset
from transfer.detect.checkpointer import LAST_CHECKPOINT, name_of
from transfer.detect.examples import TrainingLoader
from transfer.detect.launch import train_together  # so that every fork has it
from transfer.detect.options import RunOptions
from transfer.detect.run import open_output_dir, prepare_run
from transfer.detect.trainer import DetectionTrainer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
HANG_SECONDS = 300.0
TIMES = ("time", "data_time", "rank_data_time", "eta_seconds")
ITERATIONS = 6
TINY = (
    *(
        "MODEL.DEVICE",
        "cpu",
        "SOLVER.MAX_ITER",
        str(ITERATIONS),
        "SOLVER.IMS_PER_BATCH",
        "2",
        "SOLVER.CHECKPOINT_PERIOD",
        "1",
    ),
    *("TEST.EVAL_PERIOD", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.WARMUP_ITERS", "3", "SOLVER.STEPS", "(4,)"),
    *("INPUT.MIN_SIZE_TRAIN", "(80,96)", "INPUT.MIN_SIZE_TEST", "96", "SEED", "7"),
)


SHORT = ("SOLVER.MAX_ITER", "4")  # of --brief


def write_data(root: Path) -> tuple[str, str]:
    """SPEC of five training scenes, no multiple of the batch, and of two test scenes."""
    config = SyntheticConfig(num_unlabelled=8, num_readout=8, num_train_scenes=5, num_test_scenes=2)
    write_dataset(config, root, num_workers=1)
    coco = root / "coco"
    train, test = (f"coco:{coco}/annotations/instances_{part}.json:{coco}/{part}" for part in ("train", "test"))
    return train, test


# --- what is taken out in a control -----------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_file(path: Path, **_: Any) -> Iterator[Any]:
    """In place of `atomic_file`: the final name from the first byte on."""
    with open(path, "wb") as file:
        yield file


def from_the_first(loader: Any) -> Iterator[Any]:
    """In place of `TrainingLoader.__iter__`: whatever the iteration."""
    loader.first = 0
    return _ITERATE(loader)


_ITERATE = TrainingLoader.__iter__
CONTROLS: dict[str, dict[str, Any]] = {
    "position": {"transfer.detect.examples.TrainingLoader.__iter__": from_the_first},
    "draws": {f"transfer.detect.{module}.seed_generators": lambda **_: None for module in ("examples", "trainer")},
    "plain_save": {"pretrain.run.checkpoint.atomic_file": plain_file},
}


def poison(step: Any, self: Any, iteration: int) -> None:
    """One rank's weights stop being finite before an iteration."""
    if self.ranks.rank == 1 and iteration == 3:
        with torch.no_grad():
            self.model.module.roi_heads.box_predictor.cls_score.weight.fill_(float("nan"))
    step(self, iteration)


FAULTS = {
    "nan_on_rank_1": {
        "transfer.detect.trainer.DetectionTrainer._seed_step": lambda self, iteration: poison(_SEED, self, iteration)
    }
}
_SEED = DetectionTrainer._seed_step


# --- a start ----------------------------------------------------------------------------------------------------------


def start(
    data: tuple[str, str], output: Path, *, ranks: int, changed: str | None = None, more: tuple[str, ...] = ()
) -> int:
    """The process number of `tools/train_net.py`. changed: a name of CONTROLS or FAULTS. more: KEY VALUE words."""
    child = os.fork()
    if child:
        return child
    os.setsid()  # so that it and its ranks can be killed together
    code = 1
    try:
        log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        with contextlib.ExitStack() as patches:
            for place, value in (CONTROLS | FAULTS).get(changed or "", {}).items():
                patches.enter_context(mock.patch(place, value))
            run_tool(functools.partial(_run, data, ranks, ("OUTPUT_DIR", str(output), *TINY, *more)))
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(data: tuple[str, str], ranks: int, words: tuple[str, ...]) -> int:
    if ranks == 1:
        given = (
            "--config-file",
            "demo/R_18_FPN.yaml",
            "--init",
            "random",
            "--train-data",
            data[0],
            "--test-data",
            data[1],
        )
        sys.argv = [str(TOOL), *given, *words]
        sys.path.insert(0, str(TOOL.parent))  # the script takes its own folder off
        runpy.run_path(str(TOOL), run_name="__main__")
        return 0
    # --num-gpus wants GPUs: what the command does with them, on gloo and in forks.
    options = RunOptions(
        "demo/R_18_FPN.yaml", words, train_data=data[0], test_data=data[1], init="random", num_processes=ranks
    )
    run = prepare_run(options)
    with mock.patch("transfer.detect.launch.launch", launch_in_forks), open_output_dir(run.options, run.config):
        return train_together(run, SimpleNamespace(num_gpus=ranks, num_machines=1, machine_rank=0, dist_url=""))


def launch_in_forks(main: Any, count: int, machines: int, rank: int, url: str, args: tuple[Any, ...]) -> None:
    """Detectron2's `launch` with processes that have torch loaded already."""
    url = f"tcp://127.0.0.1:{_find_free_port()}"
    given = (main, count, count, 0, url, args)
    processes.start_processes(_distributed_worker, args=given, nprocs=count, start_method="fork")


def ended(child: int) -> int | None:
    """The exit code (negative: the signal that killed it), None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(child: int) -> int:
    """The exit code. A run that hangs is killed: -9."""
    end = time.monotonic() + HANG_SECONDS
    while (code := ended(child)) is None:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)
    return code


# --- what a run leaves ------------------------------------------------------------------------------------------------


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested containers, by its place."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(entry, f"{name}.{key}")


def left_behind(output: Path) -> dict[str, Any]:
    """Everything of a finished run that no clock decides."""
    record = read_record(output / "record.json")
    final, best = (read_own_file(output / f"{name}.pth") for name in ("model_final", "model_best"))
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {
        "weights": {name: value.numpy().tobytes() for name, value in tensors({"final": final["model"]})},
        "optimizer": {name: value.numpy().tobytes() for name, value in tensors(final["trainer"])},
        "best weights": {name: value.numpy().tobytes() for name, value in tensors(best)},
        "best": record.details["best"],
        "history": record.history,
        "figures": record.figures,
        "metrics": [json.dumps({k: v for k, v in row.items() if k not in TIMES}, sort_keys=True) for row in rows],
    }


def unreadable(output: Path) -> list[str]:
    """Published checkpoints that are damaged."""
    found = []
    for path in sorted(output.glob("model_*.pth")):
        try:
            read_own_file(path)
        except CheckpointError:
            found.append(path.name)
    return found


# --- the campaign -----------------------------------------------------------------------------------------------------


def kill_at_random(child: int, output: Path, draw: random.Random, *, seconds: float, in_save: bool) -> bool:
    """SIGKILL to the run. False where it had ended before. seconds: that an undisturbed run takes."""
    if not reaches_a_random_moment(child, output, draw, seconds=seconds, in_save=in_save):
        return False
    os.killpg(child, signal.SIGKILL)
    wait(child)
    return True


def reaches_a_random_moment(child: int, output: Path, draw: random.Random, *, seconds: float, in_save: bool) -> bool:
    """Wait for it. False where the run has ended by then."""
    end = time.monotonic() + draw.uniform(0.0, seconds)
    while not in_save and time.monotonic() < end:
        time.sleep(0.002)
    if in_save:  # some milliseconds after the first byte of a random save: to a temporary file, or to the final name
        saves, seen = draw.randint(1, ITERATIONS), set()
        while len(seen) < saves and not ended_early(child):
            if output.is_dir():
                seen |= {path.name.lstrip(".").split(".pth")[0] for path in output.iterdir() if ".pth" in path.name}
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.05))
    return not ended_early(child)


def campaign(
    kills: int,
    data: tuple[str, str],
    folder: Path,
    undisturbed: dict[str, Any],
    *,
    seed: int,
    seconds: float,
    ranks: int = 1,
    changed: str | None = None,
) -> dict[str, Any]:
    """Runs that are killed once each and resumed to their end -> counts."""
    draw = random.Random(seed)
    counts = {
        "kills": 0,
        "in_a_save": 0,
        "before_a_checkpoint": 0,
        "lost_checkpoints": 0,
        "refused": 0,
        "ended_differently": 0,
    }
    differences: dict[str, int] = {}
    while counts["kills"] < kills:
        output = folder / f"{changed or 'ours'}{counts['kills']}"
        in_save = changed == "plain_save" or draw.random() < 0.5
        while True:
            child = start(data, output, ranks=ranks, changed=changed)
            if kill_at_random(child, output, draw, seconds=seconds, in_save=in_save):
                break
            wait(child)
            shutil.rmtree(output)
        counts["kills"] += 1
        counts["in_a_save"] += any(output.glob(".model*.tmp"))
        counts["before_a_checkpoint"] += not (output / LAST_CHECKPOINT).exists()
        counts["lost_checkpoints"] += len(unreadable(output)) if output.exists() else 0
        code = wait(start(data, output, ranks=ranks, changed=changed))
        counts["refused"] += code != 0
        if code == 0:
            found = left_behind(output)
            other = [part for part, value in undisturbed.items() if found[part] != value]
            counts["ended_differently"] += bool(other)
            if other and changed is None:
                print(f"differs: {', '.join(other)}; {found['metrics']} {undisturbed['metrics']}")
            for part in other:
                differences[part] = differences.get(part, 0) + 1
        if code != 0 or (other and changed is None):
            print(output.with_suffix(".log").read_text()[-3000:])
        shutil.rmtree(output)
        print(f"{changed or 'ours'}: {counts}", flush=True)
    return {**counts, "differences": differences}


def stopped_and_resumed(data: tuple[str, str], folder: Path, *, ranks: int) -> dict[str, Any]:
    """A run that gets SIGTERM once two checkpoints are there, then the same command -> exit codes, states, what differs."""
    whole, cut = folder / f"whole_of_{ranks}", folder / f"cut_of_{ranks}"
    codes = [wait(start(data, whole, ranks=ranks, more=SHORT))]
    child = start(data, cut, ranks=ranks, more=SHORT)
    while not (cut / f"{name_of(2)}.pth").exists() and not ended_early(child):
        time.sleep(0.002)
    os.kill(child, signal.SIGTERM)  # to the launcher alone
    codes.append(wait(child))
    record = read_record(cut / "record.json")
    codes.append(wait(start(data, cut, ranks=ranks, more=SHORT)))
    if codes[0] or codes[2]:
        print((whole if codes[0] else cut).with_suffix(".log").read_text()[-3000:])
        return {"codes": codes}
    found, wanted = left_behind(cut), left_behind(whole)
    return {
        "codes": codes,
        "status": record.status,
        "error": record.error,
        "iterations": record.details["iterations"],
        "differences": [part for part, value in wanted.items() if found[part] != value],
    }


def ended_early(child: int) -> Any:
    """Something where the process has ended; it stays to be waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def with_a_fault(data: tuple[str, str], output: Path, fault: str) -> dict[str, Any]:
    """A run of two ranks in which something goes wrong -> its exit code, its record, what is left."""
    code = wait(start(data, output, ranks=2, changed=fault, more=SHORT))
    record = read_record(output / "record.json")
    log = output.with_suffix(".log").read_text()
    return {
        "code": code,
        "status": record.status,
        "error": record.error,
        "said": log.count("error: training diverged"),
        "unreadable": unreadable(output),
        "newest": (output / LAST_CHECKPOINT).read_text(),
        "hung": "Traceback" in log,
    }


def killed_in_a_save(data: tuple[str, str], folder: Path) -> dict[str, Any]:
    """A run that gets SIGKILL while it writes its third checkpoint, then the same command -> exit codes, what differs."""
    whole, cut = folder / "whole", folder / "cut"
    codes = [wait(start(data, whole, ranks=1, more=SHORT))]
    child = start(data, cut, ranks=1, more=SHORT)
    while not list(cut.glob(f".{name_of(3)}*")) and not ended_early(child):
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    codes += [wait(child), wait(start(data, cut, ranks=1, more=SHORT))]
    if codes[0] or codes[2]:
        print((whole if codes[0] else cut).with_suffix(".log").read_text()[-3000:])
        return {"codes": codes}
    found, wanted = left_behind(cut), left_behind(whole)
    log = cut.with_suffix(".log").read_text()
    return {
        "codes": codes,
        "resumed": [line.rpartition(": ")[2] for line in log.splitlines() if "Starting training from" in line],
        "differences": [part for part, value in wanted.items() if found[part] != value],
    }


def brief(data: tuple[str, str], folder: Path) -> dict[str, Any]:
    """What tests/transfer/detect/test_kills.py looks at."""
    return {
        "killed": killed_in_a_save(data, folder),
        "two_ranks": stopped_and_resumed(data, folder, ranks=2),
        "nan": with_a_fault(data, folder / "nan", "nan_on_rank_1"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--control-runs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--brief", action="store_true", help="one kill, two ranks stopped and with a NaN; exit code 0")
    parser.add_argument("--output", type=Path, help="a JSON file with the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_data(folder / "data")
        if arguments.brief:
            print(json.dumps(brief(data, folder)))
            return 0
        whole = [folder / "whole0", folder / "whole1"]
        then = time.monotonic()
        codes = [wait(start(data, output, ranks=arguments.ranks)) for output in whole]
        seconds = (time.monotonic() - then) / 2
        if any(codes):
            print(whole[0].with_suffix(".log").read_text()[-3000:])
            return 1
        undisturbed, again = map(left_behind, whole)
        assert undisturbed == again, "two undisturbed runs differ: nothing can be said of a resumed one"
        known = {"seed": arguments.seed, "seconds": seconds, "ranks": arguments.ranks}
        ours = campaign(arguments.kills, data, folder, undisturbed, **known)
        controls = {}
        for name in CONTROLS if arguments.control_runs else ():
            code = wait(start(data, folder / name, ranks=arguments.ranks, changed=name))
            assert code == 0, folder / name
            whole_control = left_behind(folder / name)
            controls[name] = campaign(arguments.control_runs, data, folder, whole_control, changed=name, **known)
    result = {
        "what": f"SIGKILL of a detection training of {ITERATIONS} iterations, a checkpoint each, three evaluations",
        "ranks": arguments.ranks,
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "torch": torch.__version__},
        "undisturbed_seconds": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "ours": ours,
        "controls": controls,
    }
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    broken = ours["lost_checkpoints"] + ours["refused"] + ours["ended_differently"]
    blind = [
        name
        for name, counts in controls.items()
        if not (counts["lost_checkpoints"] if name == "plain_save" else counts["ended_differently"])
    ]
    return 1 if broken or blind else 0


if __name__ == "__main__":
    sys.exit(main())
