"""The GPU check from start to finish: its parts in order within a time, the targets, and the text that is printed.

In: whether in miniature. Out: a JSON-ready dictionary. A part that fails is recorded with its error, and the others go on.
"""

from __future__ import annotations

import datetime
import functools
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pretrain.base.environment import environment
from pretrain.base.errors import ConfigError
from pretrain.gpu_check import checks
from pretrain.gpu_check.sizes import GIB, MINIATURE, Sizes, batch_that_fits, sizes_of

LEAST_SECONDS = {"compiled": 120.0, "one_rank": 40.0}  # a part is left out when less than this is left
OF_SUPERVISED, OF_REFERENCE, STALL, NUMBER_TYPES = 0.53, 2.0, 0.02, 0.02
DETERMINISTIC_CUBLAS = ":4096:8"


def pick(*, miniature: bool, batch_size: int | None) -> tuple[Sizes, torch.device]:
    """Sizes and device. Raises ConfigError where there is no GPU and no miniature was asked for."""
    if miniature:
        return MINIATURE, torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "expected a CUDA GPU, found none that torch can use; pass --miniature to run the same checks on the CPU in small, or "
            "install a torch built for CUDA (requirements/torch.txt)"
        )
    device = torch.device("cuda", 0)
    memory = torch.cuda.get_device_properties(device).total_memory
    return sizes_of(batch_size or batch_that_fits(memory)), device


def gpu_check(
    sizes: Sizes,
    device: torch.device,
    *,
    seconds: float,
    announce: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """All parts that fit into `seconds`. keep: given what there is after every part, so that a check that is ended loses one part."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_CUBLAS)  # before the device is first used
    started = time.monotonic()
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "sizes": asdict(sizes),
        "machine": machine(device),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "jpegs").mkdir()
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "speed": lambda: checks.speed(sizes, device),
            "input": lambda: checks.input_stall(sizes, device, folder / "jpegs"),
            "exact_resume": lambda: checks.exact_resume(sizes, device, folder),
            "number_types": lambda: checks.number_types(sizes, device),
            "one_rank": lambda: checks.one_rank(sizes, device, folder),
            "compiled": lambda: checks.compiled(sizes, device),
        }
        for part, work in parts.items():
            left = seconds - (time.monotonic() - started)
            if left < LEAST_SECONDS.get(part, 20.0):
                found[part] = {"error": f"left out: {left:.0f} s of {seconds:.0f} were left"}
                continue
            announce(f"{part} ...")
            before = time.monotonic()
            try:
                found[part] = work()
            except Exception as error:  # whatever it is, minutes of other figures must not be lost for it
                found[part] = {"error": ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])}
            gc.collect()  # a method and its recorded forward hold each other
            if device.type == "cuda":
                torch.cuda.empty_cache()
            found[part]["seconds"] = time.monotonic() - before
            keep(found)
    found["seconds"] = time.monotonic() - started
    found["targets"] = targets(found, judged=device.type == "cuda")
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on; the machine's name is nobody's business."""
    known = {key: value for key, value in environment().items() if key != "host"}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        known["gpu"] = {"name": properties.name, "memory_gib": properties.total_memory / GIB}
    return known


def targets(found: dict[str, Any], *, judged: bool) -> list[dict[str, Any]]:
    """Each target with what was found; `passed` is None for a speed in miniature, which means nothing, and False where a part failed.

    judged: whether speeds count.
    """
    rows: list[dict[str, Any]] = []

    def add(name: str, target: str, value: Callable[[], Any], holds: Callable[[Any], bool], *, speed: bool) -> None:
        try:
            got = value()
            passed = bool(holds(got)) if judged or not speed else None
        except KeyError:  # the part was left out or failed
            got, passed = None, False
        rows.append({"name": name, "target": target, "found": got, "passed": passed})

    speed, stall = found["speed"], found["input"]
    add(
        "MoCo v2, of the supervised step",
        f">= {OF_SUPERVISED}",
        lambda: speed["of_supervised"]["moco_v2"]["median"],
        lambda value: value >= OF_SUPERVISED,
        speed=True,
    )
    for method in checks.METHODS:
        add(
            f"{method}, of the reference's step",
            f">= {OF_REFERENCE}",
            functools.partial(lambda name: speed["of_reference"][name]["median"], method),
            lambda value: value >= OF_REFERENCE,
            speed=True,
        )
        add(
            f"{method}, share of time without a batch",
            f"< {STALL}",
            functools.partial(lambda name: stall[name]["stall"], method),
            lambda value: value < STALL,
            speed=True,
        )
    resume, types = found["exact_resume"], found["number_types"]
    add(
        "tensors that differ after a resume",
        "0, and some in the control",
        lambda: len(resume["different_after_resume"]),
        lambda value: value == 0 and resume["different_in_the_control"] > 0,
        speed=False,
    )
    add(
        "losses of other number types against fp32, mean relative difference of the settled steps",
        f"<= {NUMBER_TYPES}",
        lambda: max(types["mean_relative_difference"].values()),
        lambda value: value <= NUMBER_TYPES,
        speed=False,
    )
    add("torchrun with one process", "ok", lambda: found["one_rank"]["ok"], bool, speed=False)
    return rows


def table(found: dict[str, Any]) -> str:
    """What is printed: images a second, memory, targets, failures."""
    lines: list[str] = []
    speeds = found["speed"]
    for name, rate in speeds.get("images_a_second", {}).items():
        low, high = rate["spread"]
        memory = speeds["peak_memory_gib"][name]
        lines.append(
            f"{name:20}{rate['median']:10.1f} images/s [{low:.1f}-{high:.1f}]"
            + ("" if memory is None else f"  {memory:.1f} GiB at most")
        )
    if "times_as_fast" in found["compiled"]:
        lines.append(
            f"{'torch.compile':20}{found['compiled']['times_as_fast']['median']:10.2f} times as fast (MoCo v2), "
            f"{found['compiled']['images_a_second']['on']['median']:.1f} images/s"
        )
    words = {True: "pass", False: "FAIL", None: "not judged in miniature"}
    for row in found["targets"]:
        value = (
            "-" if row["found"] is None else f"{row['found']:.3g}" if isinstance(row["found"], float) else row["found"]
        )
        lines.append(f"{words[row['passed']]:24}{row['name']}: {value} (target {row['target']})")
    failed = {name: part["error"] for name, part in found.items() if isinstance(part, dict) and "error" in part}
    lines += [f"{name}: {error}" for name, error in failed.items()]
    return "\n".join(lines)
