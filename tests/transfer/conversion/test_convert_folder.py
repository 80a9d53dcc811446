"""A folder at once: order, what is skipped, what fails, and that a failure takes nothing else with it."""

from __future__ import annotations

import shutil

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError
from tests.transfer.conversion.checkpoints import encoder_state, ours
from transfer.conversion import convert_folder as module
from transfer.conversion.convert_folder import convert_folder, find_checkpoints
from transfer.conversion.sidecar import read_sidecar


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of ours."""
    path = tmp_path_factory.mktemp("run") / "step.pt"
    torch.save(ours(encoder_state(), encoder_state(seed=1)), path)
    return path


@pytest.fixture
def run_dir(tmp_path, checkpoint):
    """A run of tools/pretrain.py with two good checkpoints and one that is cut off."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (40, 120):
        shutil.copyfile(checkpoint, folder / f"step_{step:08d}.pt")
    (folder / "step_00000080.pt").write_bytes(checkpoint.read_bytes()[:5000])
    (folder / ".step_00000160.pt.77.tmp").touch()
    (tmp_path / "run" / "result.json").write_text("{}")
    return tmp_path / "run"


def statuses(outcomes):
    return [(outcome.source.name[:13], outcome.status) for outcome in outcomes]


@pytest.mark.slow
def test_the_good_ones_are_kept_the_bad_one_is_named_and_a_second_call_does_only_what_is_left(
    tmp_path, run_dir, checkpoint
):
    out = tmp_path / "out"
    first = convert_folder(run_dir, out, to="torchvision")
    assert statuses(first) == [
        ("step_00000040", "converted"),
        ("step_00000080", "failed"),
        ("step_00000120", "converted"),
    ]
    assert "cannot read" in first[1].reason or "damaged" in first[1].reason
    assert sorted(path.name for path in out.iterdir()) == [
        f"step_{step:08d}.{ending}" for step in (40, 120) for ending in ("json", "pth", "record.json")
    ]
    before = (out / "step_00000040.pth").stat().st_mtime_ns
    shutil.copyfile(checkpoint, run_dir / "checkpoints" / "step_00000080.pt")
    second = convert_folder(run_dir, out, to="torchvision")
    assert [outcome.status for outcome in second] == ["already there", "converted", "already there"]
    assert (out / "step_00000040.pth").stat().st_mtime_ns == before
    assert read_sidecar(out / "step_00000080.pth").source["name"] == "step_00000080.pt"


@pytest.fixture
def fake_convert(monkeypatch):
    """Conversions that write nothing, noted in order."""
    calls = []
    monkeypatch.setattr(
        module, "convert", lambda source, output, **options: calls.append((source.name, output, options))
    )
    return calls


@pytest.mark.slow
def test_only_the_same_file_for_the_same_target_and_branch_is_already_there(
    tmp_path, checkpoint, monkeypatch, fake_convert
):
    from transfer.conversion.convert import convert

    out, source = tmp_path / "out", tmp_path / "in"
    source.mkdir()
    shutil.copyfile(checkpoint, source / "a.pt")
    convert(source / "a.pt", out / "a.pth", to="torchvision")

    def status(**options):
        return convert_folder(source, out, **{"to": "torchvision", **options})[0].status

    assert status() == status(branch="query") == status(layout="infomin-transfer") == "already there"
    assert not fake_convert
    assert (
        status(branch="key")
        == status(to="detectron2")
        == status(layout="moco")
        == status(method="moco")
        == status(overwrite=True)
        == "converted"
    )
    assert len(fake_convert) == 5
    with open(out / "a.pth", "ab") as file:
        file.write(b" ")
    assert status() == "converted"  # the weights are no longer what their sidecar says
    convert(source / "a.pt", out / "a.pth", to="torchvision", overwrite=True)
    with open(source / "a.pt", "ab") as file:
        file.write(b" ")
    assert status() == "converted"  # the source is another one


def test_a_changed_checkpoint_does_not_replace_an_older_conversion_unasked(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.pt").write_bytes(b"new")
    (tmp_path / "out" / "a.pth").write_bytes(b"old")
    (outcome,) = convert_folder(tmp_path / "in", tmp_path / "out")
    assert outcome.status == "failed" and "--overwrite" in outcome.reason
    assert (tmp_path / "out" / "a.pth").read_bytes() == b"old"


def test_order_is_by_step_and_only_weight_files_count(tmp_path):
    names = ["checkpoint_0199.pth.tar", "checkpoint_0020.pth.tar", "step_00000007.pt", "last.ckpt", "m_100.safetensors"]
    for name in [*names, "notes.txt", "log.jsonl", ".hidden.pt", "result.json"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.pt").mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "last.ckpt",
        "step_00000007.pt",
        "checkpoint_0020.pth.tar",
        "m_100.safetensors",
        "checkpoint_0199.pth.tar",
    ]


def test_outputs_take_the_targets_ending(tmp_path, fake_convert):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "checkpoint_0020.pth.tar").touch()
    for to, name in {"detectron2": "checkpoint_0020.pth", "huggingface": "checkpoint_0020"}.items():
        convert_folder(tmp_path / "in", tmp_path / "out", to=to, branch="key")
        assert fake_convert[-1][1] == tmp_path / "out" / name
        assert fake_convert[-1][2] == {
            "to": to,
            "layout": "auto",
            "branch": "key",
            "method": None,
            "overwrite": False,
            "untrained": False,
            "command": "",
        }


def test_what_would_stop_all_of_them_is_refused_at_once(tmp_path):
    source = tmp_path / "in"
    with pytest.raises(ConfigError, match="no folder at"):
        convert_folder(source, tmp_path / "out")
    source.mkdir()
    with pytest.raises(ConfigError, match="no weight files in"):
        convert_folder(source, tmp_path / "out")
    (source / "a.pt").touch()
    with pytest.raises(ConfigError, match="--to expected"):
        convert_folder(source, tmp_path / "out", to="keras")
    with pytest.raises(ConfigError, match="OUTPUT must be one too"):
        convert_folder(source, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="the checkpoints are in OUTPUT"):
        convert_folder(source, source)
    (source / "a.pth").touch()
    with pytest.raises(ConfigError, match=r"a\.pt, a\.pth would all become .*a\.pth"):
        convert_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_the_whole_and_is_no_failure_of_one(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "convert", interrupted)
    (tmp_path / "a.pt").touch()
    with pytest.raises(KeyboardInterrupt):
        convert_folder(tmp_path, tmp_path / "out")


def test_a_bug_is_no_failure_of_one_checkpoint_either(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise TypeError("ours")

    monkeypatch.setattr(module, "convert", broken)
    (tmp_path / "a.pt").touch()
    with pytest.raises(TypeError):
        convert_folder(tmp_path, tmp_path / "out")
    assert not issubclass(TypeError, CheckpointError)
