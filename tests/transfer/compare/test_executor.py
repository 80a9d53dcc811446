"""Where a plan runs: one stage a device at the same time, and Slurm jobs with their dependencies; with the same records.

Devices are names in CUDA_VISIBLE_DEVICES; sbatch, srun and sacct are small stand-ins on PATH.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import signal
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from pretrain.run.slurm import SlurmOptions
from tests.cases import each
from tests.transfer.fake_tools import run_here, write_tools
from transfer.compare.executor import StageJob, cuda_devices, local_executor, run_on_devices, slurm_executor
from transfer.compare.runner import StageFolder, open_folder, run_stages, stop_request
from transfer.compare.stages import Stage, detect_stage
from transfer.compare.study_flags import executor_of

TOOL = """
import json, os, pathlib, sys, time
folder, root = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[0]).parents[1]
device = os.environ.get("CUDA_VISIBLE_DEVICES")
start = time.monotonic()
others = root / "running"
others.mkdir(exist_ok=True)
(others / folder.name).touch()
wait = float(sys.argv[2])
deadline = time.monotonic() + 20
if wait:  # until another one runs too
    while len(list(others.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    together = len(list(others.iterdir()))
else:
    together = 1
folder.mkdir(parents=True, exist_ok=True)
if (root / f"break_{folder.name}").exists():
    sys.exit(7)
(folder / "done").write_text(json.dumps({"device": device, "together": together}))
"""


def stage(name: str, *needs: str, wait: int = 0, resumes: bool = False) -> Stage:
    command = ("{root}/tools/x.py", f"{{output}}/{name}", str(wait))
    return Stage(name, f"make {name}", command, name, f"{name}/done", needs=needs, resumes=resumes)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "x.py").write_text(TOOL)
    return tmp_path


def run(project: Path, stages: list[Stage], devices: tuple[str, ...]) -> tuple[tuple[int, Stage | None], list[str]]:
    said: list[str] = []
    with open_folder(project / "out", root=project) as folder:
        return run_on_devices(stages, folder, devices=devices, say=said.append), said


def test_two_devices_run_two_stages_at_once_each_on_its_own_and_needs_are_waited_for(project: Path) -> None:
    stages = [stage("a", wait=1), stage("b", wait=1), stage("c", "a", "b"), stage("d", "c")]
    (code, failed), said = run(project, stages, ("0", "3"))
    assert (code, failed) == (0, None)
    found = {name: json.loads((project / "out" / name / "done").read_text()) for name in "abcd"}
    assert {found["a"]["device"], found["b"]["device"]} == {"0", "3"}
    assert (
        found["a"]["together"] == found["b"]["together"] == 2
    )  # the control: on one device the wait ends at its deadline
    starts = [line.partition(" ...")[0] for line in said if " ..." in line]
    assert [line.split("make ")[1][0] for line in starts] == list("abcd")
    # The same records: one after another finds everything done.
    said = []
    with open_folder(project / "out", root=project) as folder:
        assert run_stages(stages, folder, say=said.append, out=io.BytesIO()) == (0, None)
    assert sum("done already" in line for line in said) == 4
    assert sum("done already" in line for line in run(project, stages, ("0", "1"))[1]) == 4


def test_after_a_failure_nothing_new_starts_and_what_is_done_is_kept(project: Path) -> None:
    (project / "break_a").touch()
    stages = [stage("a"), stage("b", "a"), stage("c", "a")]
    (code, failed), said = run(project, stages, ("0", "1"))
    assert code == 7 and failed is stages[0] and not (project / "out" / "b").exists()
    assert any("FAILED" in line and "exit code 7" in line for line in said)
    (project / "break_a").unlink()
    assert run(project, stages, ("0", "1"))[0] == (0, None)


def test_one_device_is_the_plain_runner(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.compare.runner.run_logged", run_here)
    out = io.BytesIO()
    with open_folder(project / "out", root=project) as folder:
        assert local_executor(("0",), say=lambda text: None, out=out)([stage("a")], folder) == (0, None)


def test_the_devices_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda_devices() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert cuda_devices() == ("4", "7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert cuda_devices() == ()


# --- Slurm --------------------------------------------------------------------------------------------------------------

SBATCH = """#!/bin/sh
count=$(ls "{folder}" | grep -c "^job_")
number=$((100 + count))
cp "$1" "{folder}/job_$number.sh"
echo Submitted batch job $number
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for job in $(cat "{folder}/active" 2>/dev/null); do echo "$job|$(cat "{folder}/state")|None"; done
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("sacct", SACCT)):
        path = folder / name
        path.write_text(text.format(folder=folder))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


OPTIONS = SlurmOptions("gpu", nodes=1, gpus_per_node=1, minutes=90, others={"account": "vision"})
PLAN = [stage("a", resumes=True), stage("b"), stage("c", "a", "b"), stage("report", "c")]


def submit(project: Path) -> list[str]:
    said: list[str] = []
    with open_folder(project / "out", root=project) as folder:
        assert slurm_executor(OPTIONS, say=said.append)(PLAN, folder) is None
    return said


def test_each_stage_is_a_job_that_waits_for_what_it_needs(project: Path, cluster: Path) -> None:
    said = submit(project)
    texts = [(cluster / f"job_{number}.sh").read_text().splitlines() for number in (100, 101, 102, 103)]
    assert not any("dependency" in line for line in [*texts[0], *texts[1]])
    assert {"#SBATCH --dependency=afterok:100:101", "#SBATCH --kill-on-invalid-dep=yes"} <= set(texts[2])
    assert "#SBATCH --dependency=afterok:102" in texts[3]
    for text in texts[:3]:
        assert {
            "#SBATCH --partition=gpu",
            "#SBATCH --gpus-per-node=1",
            "#SBATCH --time=90",
            "#SBATCH --account=vision",
        } <= set(text)
    assert "#SBATCH --gpus-per-node=0" in texts[3]  # a report needs none
    assert "submitted 4 jobs" in said[-1] and not (project / "out" / "a").exists()


def test_what_is_in_the_queue_is_not_submitted_again_and_what_is_lost_is(project: Path, cluster: Path) -> None:
    submit(project)
    (cluster / "active").write_text("101 102")
    (cluster / "state").write_text("PENDING")
    said = submit(project)
    assert "2 of 4 stages" in said[-1] and "b (job 101)" in said[-1] and not (cluster / "job_104.sh").exists()
    (cluster / "state").write_text("FAILED")
    assert "submitted 4 jobs" in submit(project)[-1]


def test_a_job_runs_its_stage_with_the_record_of_a_local_run(project: Path, cluster: Path) -> None:
    submit(project)
    for pickled in sorted((project / "out" / "slurm").glob("*_submitted.pkl")):
        job = pickle.loads(pickled.read_bytes()).function
        assert isinstance(job, StageJob)
        job()
    folder = StageFolder(project / "out", project)
    said: list[str] = []
    assert run_stages(PLAN, folder, say=said.append, out=io.BytesIO()) == (0, None)
    assert sum("done already" in line for line in said) == 4
    with open_folder(project / "out", root=project) as folder:
        assert slurm_executor(OPTIONS, say=said.append)(PLAN, folder) == (0, None)  # nothing is left to submit


def test_a_job_that_has_to_make_room_saves_its_stage_and_goes_back_into_the_queue(tmp_path: Path) -> None:
    write_tools(tmp_path, ["pretrain"], "")
    (tmp_path / "slow_pretrain").touch()
    words = ("{root}/tools/pretrain.py", "--output-dir", "{output}/pretrain")
    long = Stage("pretrain", "t", words, "pretrain", "pretrain/record.json", resumes=True)
    submitit_s: list[int] = []  # what its handler would do: put the job back
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: submitit_s.append(signum))

    def preempt() -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR2)

    try:
        thread = threading.Thread(target=preempt)
        thread.start()
        job = StageJob(tmp_path / "out", tmp_path, long, [])
        job()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "asked_to_stop").read_text() == str(int(signal.SIGTERM)) and submitit_s == [signal.SIGUSR2]
    assert (tmp_path / "out" / "pretrain" / "half.pt").exists()
    # The same once more, as Slurm starts it again: the folder is kept, since the stage goes on from it.
    (tmp_path / "slow_pretrain").unlink()
    with pytest.raises(SystemExit):
        job()  # this fake leaves no record
    assert (tmp_path / "out" / "pretrain" / "half.pt").exists()


def test_without_slurm_or_with_a_refusal_it_is_said(
    project: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(ConfigError, match="sbatch refused `make a`"):
        submit(project)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(ConfigError, match="no srun here"):
        submit(project)


def arguments(**over: object) -> argparse.Namespace:
    names = ("partition", "gpus_per_job", "time", "sbatch", "budget")
    return argparse.Namespace(**{**dict.fromkeys(names), "executor": "slurm", "dry_run": False, **over})


@each(
    ("given", "message"),
    [
        ({}, "needs --partition"),
        ({"executor": "local", "partition": "gpu"}, "--partition without --executor slurm"),
        ({"partition": "gpu", "budget": "2h"}, "pretrain.epochs=N"),
        ({"partition": "gpu", "dry_run": True}, "measures this machine"),
        ({"partition": "gpu", "sbatch": ["account"]}, "KEY=VALUE"),
        ({"partition": "gpu", "time": "soon"}, "as sbatch reads it"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        executor_of(arguments(**given), say=lambda text: None)


def test_a_plan_without_slurm_runs_here() -> None:
    assert executor_of(arguments(executor="local"), say=lambda text: None) is None


def test_a_detection_is_asked_to_save_and_goes_on_where_it_was_stopped() -> None:
    """Its folder is kept, and its command gets SIGTERM whatever the study got."""
    words = {"name": "d", "title": "t", "folder": "d", "init": "random", "train_data": "a", "test_data": "b"}
    detection = detect_stage(**words, seed=0, config_file=Path("c.yaml"))
    assert detection.resumes and stop_request(detection) == signal.SIGTERM
    assert stop_request(stage("b")) == signal.SIGINT
