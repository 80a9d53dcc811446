"""Malicious files against the reader, and some of each kind against every entry point: the canary never appears.

Each is refused with our error, or comes back as records that ran nothing (`INERT`). The control: under the readers that these
files were made for, the canary does appear, so its absence says something.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pretrain.base.errors import CheckpointError
from pretrain.run.checkpoint import checkpoint_path, newest_checkpoint, read_checkpoint
from tests.transfer.conversion.attacks import attacks
from tests.transfer.conversion.weight_fuzz import child_in_this_process
from transfer.conversion.containers import file_view, find_containers
from transfer.conversion.convert import convert
from transfer.conversion.sources import load_backbone
from transfer.conversion.weight_files import open_weight_file, read_weight_file
from transfer.detect.checkpointer import SafeCheckpointer
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import resolve_config_path
from transfer.detect.loading import plan_weights, verify_fits
from transfer.readout.config import load_linear_config
from transfer.readout.features import load_frozen_encoder

pytestmark = pytest.mark.child
ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(attacks("canary"))
RUN = [name for name, attack in attacks("canary").items() if attack.runs_under]


def written(folder: Path, name: str, suffix: str = ".pkl") -> tuple[Path, Path]:
    """(the malicious file, its canary)."""
    canary = folder / "canary"
    path = folder / f"weights{suffix}"
    path.write_bytes(attacks(str(canary))[name].content)
    return path, canary


def canaries(folder: Path) -> list[str]:
    """What was created: some functions add a suffix of their own."""
    return [entry.name for entry in folder.iterdir() if entry.name.startswith("canary")]


def test_there_are_sixty_different_files(tmp_path):
    files = {attack.content for attack in attacks(str(tmp_path / "canary")).values()}
    assert len(files) == len(NAMES) >= 60
    assert len(RUN) >= 45


# Files that are read: what they name became records, and whatever asks for tensors finds none.
INERT = {
    *(
        "pickle: numpy.memmap",
        "pickle: numpy's runstring",
        "opcode: NEWOBJ",
        "opcode: NEWOBJ_EX",
        "opcode: BUILD of a record",
    ),
    *("bomb: bytes of a number", "bomb: numpy.zeros", "bomb: ndarray of a shape", "bomb: torch.Tensor of a size"),
    "bomb: operations",
}


KINDS = sorted({name.partition(":")[0] for name in NAMES} - {"bomb"})


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("bomb", marks=pytest.mark.slow)])
def test_the_reader_refuses_all_or_makes_inert_records(tmp_path, kind):
    """Bombs with the real child, whose caps stop them; the rest in this process, where torch and numpy are loaded."""
    inert = set()
    for number, name in enumerate(name for name in NAMES if name.startswith(f"{kind}:")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, _ = written(folder, name)
        start = time.perf_counter()
        with nullcontext() if kind == "bomb" else child_in_this_process():
            try:
                assert not list(find_containers(read_weight_file(path)))
                inert.add(name)
            except CheckpointError as error:
                assert "weights" in str(error)
        assert not canaries(folder), name
        assert time.perf_counter() - start < 60
    assert inert == {name for name in INERT if name.startswith(f"{kind}:")}


@pytest.mark.parametrize("name", ["pickle: os.system", "torch zip: eval", "opcode: INST", "pickle: functools.partial"])
def test_the_real_child_refuses_what_runs_code_and_says_so(tmp_path, name):
    path, _ = written(tmp_path, name)
    with pytest.raises(CheckpointError, match="could run code: the file is malicious or broken"):
        read_weight_file(path)
    assert not canaries(tmp_path)


def open_and_verify(path: Path) -> None:
    """As load_backbone reads: the tensors that are used are verified, then used."""
    file = open_weight_file(path)
    file.verify(
        [tensor for tensors in file_view(file.content, path).containers.values() for tensor in tensors.values()]
    )


def resume(path: Path) -> None:
    checkpoints = path.parent / "checkpoints"
    checkpoints.mkdir()
    path.rename(checkpoint_path(checkpoints, 3))
    newest_checkpoint(checkpoints, quarantine=True)


def detector(*words: str):
    return load_detector_config(resolve_config_path("demo/R_18_FPN.yaml"), words)


def train_net(path: Path) -> None:
    """What tools/train_net.py does with MODEL.WEIGHTS before anything is written, the user having passed --trust."""
    config = detector("MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(path.parent / "out"))
    verify_fits(plan_weights(config, eval_only=False, resume=False, trust=True), config)


def train_net_resume(path: Path) -> None:
    """A run folder whose pointer to the newest checkpoint names the file."""
    (path.parent / "last_checkpoint").write_text(path.name)
    config = detector("OUTPUT_DIR", str(path.parent))
    verify_fits(plan_weights(config, eval_only=False, resume=True, trust=False), config)


# Entry point -> (what it calls, the file's suffix).
ENTRIES = {
    "open_weight_file": (open_and_verify, ".pth"),
    "load_backbone": (load_backbone, ".pth"),
    "convert": (lambda path: convert(path, path.parent / "out" / "new.pth"), ".pth"),
    "linear_eval": (lambda path: load_frozen_encoder(str(path), load_linear_config(None, []), branch=None), ".pth"),
    "read_checkpoint": (read_checkpoint, ".pt"),
    "resume": (resume, ".pt"),
    "train_net": (train_net, ".pkl"),
    "train_net --resume": (train_net_resume, ".pkl"),
    "Detectron2's checkpointer": (lambda path: SafeCheckpointer(nn.Module()).load(str(path)), ".pkl"),
}


# One of each kind of trick; the reader below them is one, and has met all.
CHOSEN = (
    "pickle: os.system", "pickle: numpy's runstring", "torch zip: eval", "torch zip: torch's nested load", "old torch: os.system",
    "opcode: INST", "polyglot: pickle, then zip", "polyglot: zip, then pickle", "zip: compressed", "zip: a wrong weight",
    "safetensors: outside", "bomb: memo in a torch zip", "bomb: expanded tensor",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_refuses_one_of_each_kind(tmp_path, entry):
    work, suffix = ENTRIES[entry]
    for number, name in enumerate(CHOSEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, _ = written(folder, name, suffix)
        try:
            work(path)
        except CheckpointError:
            pass
        else:
            pytest.fail(f"{entry} took {name}")
        assert not canaries(folder), (entry, name)
        assert not (folder / "out" / "new.pth").exists()


TRUSTING = """
import json, os, pickle, sys, torch
for reader, path in json.load(open(sys.argv[1])):
    try:
        with open(path, "rb") as file:
            pickle.load(file, encoding="latin1") if reader == "pickle" else torch.load(path, weights_only=False)
    except BaseException:
        pass
"""


@pytest.mark.slow
def test_the_control_does_run_them(tmp_path):
    """pickle.load (what Detectron2 does with a .pkl) and torch.load(weights_only=False), in a process of their own."""
    jobs = []
    for number, name in enumerate(RUN):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, canary = written(folder, name)
        jobs.append([attacks(str(canary))[name].runs_under, str(path)])
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-W", "ignore", "-c", TRUSTING, str(tmp_path / "jobs.json")]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    silent = [name for number, name in enumerate(RUN) if not canaries(tmp_path / str(number))]
    assert silent == []
    assert read_by_detectron2_itself(tmp_path)


def read_by_detectron2_itself(folder: Path) -> bool:
    """Whether Detectron2's own checkpointer runs a .pkl."""
    from detectron2.checkpoint import DetectionCheckpointer

    (folder / "d2").mkdir()
    path, canary = written(folder / "d2", "pickle: os.mkdir")
    with pytest.raises(Exception, match=".*"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(str(path))
    return canary.exists()


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    """train/ and val/ with one class of one image."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        for name in ("dark", "light"):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(root / split / name / "0.png")
    return root


COMMANDS = {
    "convert_weights": lambda path, data: (str(path), str(path.parent / "out" / "new.pth")),
    "linear_eval": lambda path, data: ("--weights", str(path), "--data", str(data), "num_workers=0"),
    "train_net": lambda path, data: (
        *("--config-file", "demo/R_18_FPN.yaml", "--trust"),
        *("MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(path.parent / "out")),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", COMMANDS)
def test_the_commands_end_with_exit_code_2_and_no_canary(tmp_path, class_folders, monkeypatch, capsys, tool):
    """The commands themselves, in this process: a child each would cost seconds of imports."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for number, name in enumerate(CHOSEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, _ = written(folder, name)
        monkeypatch.setattr(sys, "argv", [f"{tool}.py", *COMMANDS[tool](path, class_folders)])
        monkeypatch.setattr(sys, "path", ["tools", *sys.path])  # the tools drop the first entry
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / f"{tool}.py"), run_name="__main__")
        printed = capsys.readouterr().err
        assert (stop.value.code, "error: " in printed) == (2, True), (name, printed)
        assert not canaries(folder) and not list(folder.glob("out/new*")), name


def test_an_environment_that_weakens_torch_changes_nothing(tmp_path, monkeypatch):
    """torch reads this variable as weights_only=False for whoever did not say otherwise."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, canary = written(tmp_path, "torch zip: os.system", ".pth")
    for read in (read_weight_file, read_checkpoint, lambda p: SafeCheckpointer(nn.Module()).load(str(p))):
        with pytest.raises(CheckpointError):
            read(path)
        assert not canary.exists()
    with pytest.warns(UserWarning, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load(path)  # the control
    assert canary.exists() and os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
