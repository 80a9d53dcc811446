"""Commands of a study or sweep: shown and logged, also through a terminal; the output folder, its lock and its records."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import sys
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import OpenRecord, Record
from tests.cases import each
from tests.transfer.fake_tools import write_tools
from transfer.compare.runner import StageFolder, open_folder, run_logged, run_stages, show_seconds
from transfer.compare.stages import Stage, checkpoint_of


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_streams_are_shown_and_logged_and_the_exit_code_returned(tmp_path: Path) -> None:
    out = io.BytesIO()
    code = "import sys; print('one'); sys.stderr.write('two\\n'); sys.exit(5)"
    outcome = run_logged(python(code), log_path=tmp_path / "log", out=out)
    assert (outcome.code, outcome.stopped_by) == (5, None)
    assert out.getvalue() == (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_death_by_a_signal_is_128_and_the_signal(tmp_path: Path) -> None:
    outcome = run_logged(python("import os; os.kill(os.getpid(), 9)"), log_path=tmp_path / "log", out=io.BytesIO())
    assert (outcome.code, outcome.stopped_by) == (137, None)


def test_no_input_is_waited_for(tmp_path: Path) -> None:
    assert run_logged(python("input()"), log_path=tmp_path / "log", out=io.BytesIO()).code == 1


def test_on_a_terminal_the_command_sees_a_terminal_and_the_log_has_plain_lines(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    try:
        with open(writer, "wb", buffering=0, closefd=False) as out:
            outcome = run_logged(
                python("import os; print(os.isatty(2), *os.get_terminal_size(2))"), log_path=tmp_path / "log", out=out
            )
        assert outcome.code == 0
        shown = b""
        while b"\n" not in shown:  # it comes in pieces
            shown += os.read(reader, 100)
        assert b"True 80 24" in shown
        assert (tmp_path / "log").read_bytes() == b"True 80 24\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_logged([str(tmp_path / "absent")], log_path=tmp_path / "log", out=io.BytesIO())


RECORD = Record("pretraining", {}, {}, {"run": 0})
STAGE = Stage(
    "convert",
    "t",
    ("{root}/tools/x.py", checkpoint_of("pretrain"), "coco:{output}/a:{output}/b"),
    folder="w",
    result="w/r",
)


def test_commands_are_short_from_the_projects_root_and_whole_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StageFolder(tmp_path / "runs" / "s", root=tmp_path)
    monkeypatch.chdir(tmp_path)
    short = ["tools/x.py", "runs/s/pretrain/checkpoints/LAST.pt", "coco:runs/s/a:runs/s/b"]
    assert folder.command(STAGE)[1:] == short
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert folder.command(STAGE)[1:] == [f"{tmp_path}/tools/x.py", short[1].removeprefix("runs/"), "coco:s/a:s/b"]


def test_an_installed_package_runs_its_own_scripts(tmp_path: Path) -> None:
    (tmp_path / "infomin_tools").mkdir()
    assert StageFolder(tmp_path / "s", root=tmp_path).command(STAGE)[1] == f"{tmp_path}/infomin_tools/x.py"


def test_a_pre_training_result_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "pretrain").mkdir()
    OpenRecord(tmp_path / "pretrain" / "record.json", RECORD).finish({}, details={"steps": 3})
    with pytest.raises(DataError, match="expected the key `checkpoint`"):
        StageFolder(tmp_path).command(STAGE)


def test_the_last_checkpoint_is_read_from_the_record_and_from_a_result_of_before_it(tmp_path: Path) -> None:
    def checkpoint() -> str:
        return StageFolder(tmp_path).command(STAGE)[2].rpartition("/")[2]

    assert checkpoint() == "LAST.pt"
    run = tmp_path / "pretrain"
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"checkpoint": "checkpoints/old.pt"}))
    assert checkpoint() == "old.pt"
    record = OpenRecord(run / "record.json", RECORD)
    assert checkpoint() == "LAST.pt"  # it goes on
    record.finish({}, details={"checkpoint": "checkpoints/new.pt"})
    assert checkpoint() == "new.pt"


def test_a_stage_with_a_record_is_done_when_that_says_so(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, folder="run", result="run/record.json")
    with open_folder(tmp_path) as folder:
        folder.prepare(stage, folder.wanted(stage, {}))
        (tmp_path / "run").mkdir()
        folder.finish(stage, folder.wanted(stage, {}), 1.0)
        assert not folder.is_done(stage, {})
        (tmp_path / "run" / "linear_result.json").write_text("{}")
        assert folder.is_done(stage, {})  # finished before records were written: kept
        record = OpenRecord(tmp_path / "run" / "record.json", RECORD)
        assert not folder.is_done(stage, {})  # running, or killed
        record.finish({"top1": 1.0})
        assert folder.is_done(stage, {})
        (tmp_path / "run" / "record.json").write_text("{")
        assert not folder.is_done(stage, {})


@pytest.mark.usefixtures("commands_run_here")
def test_a_command_that_leaves_a_record_that_is_not_done_has_failed(tmp_path: Path) -> None:
    write_tools(tmp_path, ["x"], 'record("readout", {"top1": 1.0}, status=words[-1])')
    for status, code in (("running", 1), ("done", 0)):
        words = ("{root}/tools/x.py", "--output-dir", "{output}/run", status)
        stage = Stage("readout", "t", words, folder="run", result="run/record.json")
        said: list[str] = []
        with open_folder(tmp_path / status, root=tmp_path) as folder:
            assert run_stages([stage], folder, say=said.append, out=io.BytesIO())[0] == code
        assert ("no finished" in said[1]) is (code == 1)


@each("text", ["", "[]", '{"fingerprint": "x"}', '{"other": 1}'])
def test_a_damaged_record_means_that_the_stage_is_not_done(tmp_path: Path, text: str) -> None:
    with open_folder(tmp_path) as folder:
        folder.prepare(STAGE, folder.wanted(STAGE, {}))
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "r").touch()
        folder.finish(STAGE, folder.wanted(STAGE, {}), 1.0)
        assert folder.is_done(STAGE, {})  # the control
        folder.record_path(STAGE).write_text(text)
        assert not folder.is_done(STAGE, {})


def test_a_refusal_before_anything_is_made_leaves_no_folder_and_a_later_one_all_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), open_folder(tmp_path / "out"):
        raise ConfigError("no split of that name")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError), open_folder(tmp_path / "out") as folder:
        (folder.path / "made").touch()
        raise ConfigError("something else")
    assert (tmp_path / "out" / "made").is_file()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="cannot write"), open_folder(tmp_path / "out"):
        pass


def test_seconds_read_well() -> None:
    assert [show_seconds(value) for value in (0.4, 59.4, 59.6, 3725)] == ["0s", "59s", "1m00s", "62m05s"]
