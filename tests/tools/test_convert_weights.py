"""The command: what it prints, its exit codes, and that a refusal leaves no file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.transfer.conversion.checkpoints import encoder_state, pycontrast

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments):
    command = [sys.executable, ROOT / "tools" / "convert_weights.py", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
def test_a_checkpoint_becomes_weights_and_sidecar(tmp_path):
    torch.save(pycontrast(encoder_state(), encoder_state(seed=1)), tmp_path / "in.pth")
    result = call(tmp_path / "in.pth", tmp_path / "new" / "out.pth")
    assert result.returncode == 0, result.stderr
    assert "100 of 100 tensors placed once" in result.stdout and "MODEL.PIXEL_STD" in result.stdout
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.json", "out.pth"]


@pytest.mark.slow
def test_a_folder_keeps_the_good_ones_names_the_bad_one_and_ends_with_code_2(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save(pycontrast(encoder_state(), encoder_state(seed=1)), tmp_path / "in" / "epoch_20.pth")
    (tmp_path / "in" / "epoch_3.pth").write_bytes(b"PK\x03\x04 cut off")
    for word in ("converted", "already there"):
        result = call(tmp_path / "in", tmp_path / "out", "--to", "timm")
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert f"{word:15}epoch_20.pth -> {tmp_path}/out/epoch_20.safetensors" in result.stdout
        assert "error: 1 of 2 checkpoints could not be converted:\n  epoch_3.pth: " in result.stderr
        assert "to timm: 100%" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["epoch_20.json", "epoch_20.safetensors"]


@pytest.mark.slow
def test_another_target_prints_how_to_load_it_and_the_line_does(tmp_path):
    torch.save(pycontrast(encoder_state(), encoder_state(seed=1)), tmp_path / "in.pth")
    result = call(tmp_path / "in.pth", tmp_path / "out.pth", "--to", "torchvision")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("load "))
    names = {"torch": torch, "torchvision": torchvision}
    exec(line.removeprefix("load").strip(), names)
    assert torch.equal(names["network"].conv1.weight, encoder_state()["conv1.weight"])


@pytest.mark.slow
def test_the_list_of_sources_needs_no_file():
    result = call("--list-sources")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("infomin-transfer", "moco", "pycontrast", "torchvision"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.slow
def test_bad_input_is_exit_code_2_without_a_traceback_or_a_file(tmp_path):
    torch.save({"weights": {"a": torch.zeros(2)}}, tmp_path / "unknown.pth")
    torch.save(pycontrast(encoder_state(), encoder_state()), tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:1000])
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(tmp_path / "canary")}))
    for arguments, message in {
        (tmp_path / "absent.pth", tmp_path / "o.pth"): "no weight file at",
        (tmp_path / "unknown.pth", tmp_path / "o.pth"): "no known layout",
        (tmp_path / "cut.pth", tmp_path / "o.pth"): "cannot read",
        (tmp_path / "evil.pkl", tmp_path / "o.pth"): "could run code",
        (tmp_path / "good.pth", tmp_path / "o.pth", "--source", "mocco"): "--source expected",
        (tmp_path / "good.pth", tmp_path / "o.pth", "--branch", "teacher"): "--branch teacher",
        (tmp_path / "good.pth", tmp_path / "o.pkl"): "ends in .pth",
        (tmp_path / "good.pth",): "expected INPUT and OUTPUT",
    }.items():
        result = call(*arguments)
        assert (result.returncode, message in result.stderr, "Traceback" in result.stderr) == (2, True, False), (
            result.stderr
        )
    assert not list(tmp_path.glob("o.*")) and not list(tmp_path.glob(".o*")) and not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_inspect_says_what_a_file_holds_and_writes_nothing(tmp_path):
    torch.save({"odd": {f"trunk.{name}": t for name, t in encoder_state().items()}}, tmp_path / "x.pth")
    result = call("--inspect", tmp_path / "x.pth")
    assert result.returncode == 0, result.stderr
    assert "prefix      odd/trunk: complete, 100 tensors of resnet18" in result.stdout
    assert "MODEL.RESNETS.DEPTH" in result.stdout and [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert call("--inspect", tmp_path / "absent.pth").returncode == 2
