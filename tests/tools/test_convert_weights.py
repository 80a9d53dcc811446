"""The command: what it prints, its exit codes, and that a refusal leaves no file."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import torchvision

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.record import read_record
from tests.tools.in_process import TOOLS, run_tool_here
from tests.transfer.conversion.checkpoints import encoder_state, ours, pycontrast
from tests.transfer.conversion.tiny_encoders import TINY, tiny_state

QUERY, KEY = tiny_state("tiny50", 0), tiny_state("tiny50", 1)


@pytest.fixture
def call(monkeypatch):
    """Function: arguments -> (exit code, standard output, standard error) of the command. Tiny encoders are known to it."""
    for name, spec in TINY.items():
        monkeypatch.setitem(ARCHITECTURES, name, spec)

    def run(*arguments):
        done = run_tool_here("convert_weights.py", *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.slow
def test_the_script_starts_from_a_shell_and_lists_its_sources():
    result = subprocess.run(
        [sys.executable, TOOLS / "convert_weights.py", "--list-sources"], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("infomin-transfer", "moco", "pycontrast", "torchvision"))


def test_a_checkpoint_becomes_weights_and_sidecar(tmp_path, call):
    torch.save(pycontrast(QUERY, KEY), tmp_path / "in.pth")
    code, output, errors = call(tmp_path / "in.pth", tmp_path / "new" / "out.pth")
    assert code == 0, errors
    assert "265 of 265 tensors placed once" in output and "MODEL.PIXEL_STD" in output
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.json", "out.pth", "out.record.json"]
    assert f"written     {tmp_path}/new/out.pth, out.json and out.record.json" in output
    assert "method      unknown: pass --method NAME" in output
    code, output, _ = call(tmp_path / "in.pth", tmp_path / "named.pth", "--method", "infomin")
    record = read_record(tmp_path / "named.record.json")
    assert code == 0 and "method      infomin" in output and record.initialisation.name == "infomin"
    assert record.commands[0].endswith(f"{tmp_path}/named.pth --method infomin")


@pytest.fixture
def run_dir(tmp_path):
    """A run of tools/pretrain.py with two checkpoints, the query encoder of the newest being another one."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(ours(QUERY, KEY, arch="tiny50"), folder / "step_00000040.pt")
    torch.save(ours(KEY, QUERY, arch="tiny50"), folder / "step_00000120.pt")
    return tmp_path / "run"


def test_a_run_and_a_file_is_its_newest_checkpoint(tmp_path, run_dir, call):
    code, output, errors = call(run_dir, tmp_path / "out.pth")
    assert code == 0 and "source      step_00000120.pt: infomin-transfer, query" in output, errors
    model = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
    assert torch.equal(model["stem.conv1.weight"], KEY["conv1.weight"])


def test_a_run_and_another_target_s_file_asks_for_the_target(tmp_path, run_dir, call):
    code, _, errors = call(run_dir, tmp_path / "out.onnx")
    assert code == 2 and "pass --to onnx" in errors and not (tmp_path / "out.onnx").exists()


def test_a_run_and_a_folder_is_every_checkpoint_and_a_second_call_does_nothing_again(tmp_path, run_dir, call):
    (run_dir / "checkpoints" / "step_00000080.pt").write_bytes(b"PK\x03\x04 cut off")
    for word in ("converted", "already there"):
        code, output, errors = call(run_dir, tmp_path / "out")
        assert code == 2 and "Traceback" not in errors
        assert f"{word:15}step_00000040.pt -> {tmp_path}/out/step_00000040.pth" in output
        assert "error: 1 of 3 checkpoints could not be converted:\n  step_00000080.pt: " in errors
        assert "to detectron2: 100%" in errors
    names = [f"step_00000{step}.{ending}" for step in ("040", "120") for ending in ("json", "pth", "record.json")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


@pytest.mark.slow
def test_another_target_prints_how_to_load_it_and_the_line_does(tmp_path, call):
    torch.save(pycontrast(encoder_state(), encoder_state(seed=1)), tmp_path / "in.pth")
    code, output, errors = call(tmp_path / "in.pth", tmp_path / "out.pth", "--to", "torchvision")
    assert code == 0, errors
    line = next(line for line in output.splitlines() if line.startswith("load "))
    names = {"torch": torch, "torchvision": torchvision}
    exec(line.removeprefix("load").strip(), names)
    assert torch.equal(names["network"].conv1.weight, encoder_state()["conv1.weight"])


def test_an_untrained_encoder_needs_the_flag_and_is_named(tmp_path, call):
    start = {"running_mean": 0.0, "running_var": 1.0}
    state = {n: t.clone().fill_(start[n.rpartition(".")[2]]) if "running" in n else t for n, t in QUERY.items()}
    torch.save(state, tmp_path / "in.pth")
    code, _, errors = call(tmp_path / "in.pth", tmp_path / "out.pth")
    assert code == 2 and "it was never trained" in errors and "--untrained" in errors
    assert not (tmp_path / "out.pth").exists()
    code, output, _ = call(tmp_path / "in.pth", tmp_path / "out.pth", "--untrained")
    assert code == 0 and "note        it was never trained" in output


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_bad_input_is_exit_code_2_without_a_traceback_or_a_file(tmp_path, call):
    torch.save({"weights": {"a": torch.zeros(2)}}, tmp_path / "unknown.pth")
    torch.save(pycontrast(QUERY, KEY), tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:1000])
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(tmp_path / "canary")}))
    (tmp_path / "folder").mkdir()
    shutil.copyfile(tmp_path / "good.pth", tmp_path / "folder" / "epoch_3.pth")
    for arguments, message in {
        (tmp_path / "absent.pth", tmp_path / "o.pth"): "no weight file at",
        (tmp_path / "unknown.pth", tmp_path / "o.pth"): "no known layout",
        (tmp_path / "cut.pth", tmp_path / "o.pth"): "cannot read",
        (tmp_path / "evil.pkl", tmp_path / "o.pth"): "evil.pkl",
        (tmp_path / "good.pth", tmp_path / "o.pth", "--source", "mocco"): "--source expected",
        (tmp_path / "good.pth", tmp_path / "o.pth", "--branch", "teacher"): "--branch teacher",
        (tmp_path / "good.pth", tmp_path / "o.pkl"): "ends in .pth",
        (tmp_path / "folder", tmp_path / "o.pth"): "without checkpoints of tools/pretrain.py (step_*.pt); pass a file",
        (tmp_path / "good.pth",): "expected INPUT and OUTPUT",
        (tmp_path / "folder",): "expected INPUT and OUTPUT",
        ("--inspect", tmp_path / "good.pth", tmp_path / "cut.pth"): f"would ignore {tmp_path}/cut.pth; leave that out",
        ("--list-sources", tmp_path / "good.pth"): "--list-sources converts nothing",
    }.items():
        code, _, errors = call(*arguments)
        assert (code, message in errors, "Traceback" in errors) == (2, True, False), errors
    assert not list(tmp_path.glob("o.*")) and not list(tmp_path.glob(".o*")) and not (tmp_path / "canary").exists()


def test_inspect_says_what_a_file_holds_and_writes_nothing(tmp_path, call):
    torch.save({"odd": {f"trunk.{name}": t for name, t in QUERY.items()}}, tmp_path / "x.pth")
    code, output, errors = call("--inspect", tmp_path / "x.pth")
    assert code == 0, errors
    assert "prefix      odd/trunk: complete, 265 tensors of tiny50" in output
    assert "MODEL.RESNETS.DEPTH" in output and [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    assert call("--inspect", tmp_path / "absent.pth")[0] == 2
