"""A run as a Slurm job: what is asked of sbatch, which rank a task is, and a job that is put back into the queue and goes on.

sbatch, srun and scontrol are small stand-ins on PATH: srun starts the tasks with Slurm's variables, scontrol notes what it is told.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint
from pretrain.run.slurm import add_slurm_options, minutes_of, slurm_options, step_environment, without_slurm_options
from tests.cases import each
from tests.tools.in_process import TOOLS, run_tool_here

SBATCH = """#!/bin/sh
cp "$1" "{folder}/job.sh"
echo Submitted batch job 4711
"""
SRUN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
options = dict(zip(words, words[1:]))
command = words[next(i for i, word in enumerate(words) if word == "{python}"):]
tasks = []
for rank in range(2):
    environment = os.environ | {{
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "127.0.0.1",
    }}
    name = options["--error"].replace("%j", "4711").replace("%t", str(rank))
    with open(name, "a") as log:
        tasks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
with open("{folder}/tasks", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
sys.exit(max(abs(task.wait()) for task in tasks))
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "{folder}/asked_of_scontrol"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Folder with the stand-ins and what they note."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        path = folder / name
        path.write_text(text.format(folder=folder, python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def words_of(images, output, *more):
    tiny = [
        *("encoder.arch=resnet18_half", "method.queue_size=20", "views.image_size=32", "views.patch_size=20"),
        *("optimizer.batch_size=8", "optimizer.epochs=6", "runtime.device=cpu", "runtime.precision=fp32"),
        *("runtime.checkpoint_every_steps=1", "data.num_workers=0"),
    ]
    return ["--config-file", "smoke", "--output-dir", str(output), f"data.root={images}", *tiny, *more]


def options_of(*words):
    parser = argparse.ArgumentParser()
    add_slurm_options(parser)
    return slurm_options(parser.parse_args(words))


@each(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("24:00:00", 1440), ("2-12", 3600), ("1-00:30", 1470), ("1-02:03:04", 1564)],
)
def test_a_time_is_read_as_sbatch_reads_it(time, minutes):
    assert minutes_of(time) == minutes


def test_options_that_cannot_be_are_refused():
    assert options_of() is None
    asked = options_of("--slurm", "gpu", "--nodes", "2", "--gpus-per-node", "8", "--sbatch", "account=a=b")
    assert (asked.nodes, asked.gpus_per_node, asked.minutes, asked.others) == (2, 8, 1440, {"account": "a=b"})
    for words, message in {
        ("--nodes", "2"): "without --slurm",
        ("--slurm", "gpu", "--time", "a day"): "as sbatch reads it",
        ("--slurm", "gpu", "--time", "0"): "more than no time",
        ("--slurm", "gpu", "--sbatch", "account"): "KEY=VALUE",
        ("--slurm", "gpu", "--nodes", "0"): "at least 1",
    }.items():
        with pytest.raises(ConfigError, match=message):
            options_of(*words)


def test_the_job_s_command_is_the_one_that_was_typed():
    words = ["seed=1", "--slurm", "gpu", "--config-file", "smoke", "--nodes=2", "--sbatch", "a=b", "data.root=x"]
    assert without_slurm_options(words) == ["seed=1", "--config-file", "smoke", "data.root=x"]


def test_the_tasks_of_srun_are_ranks_and_the_batch_script_is_none():
    job = {
        **{"SLURM_JOB_ID": "31234", "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
        **{"SLURM_NTASKS": "12", "SLURM_JOB_NODELIST": "gpu[03-04]", "MASTER_PORT": "4000"},
    }
    assert step_environment(job) == {}  # sbatch's own script, or a shell of salloc: alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_NODELIST", "gpu[03-04]")
        found = step_environment({**job, "SLURM_STEP_NUM_TASKS": "12", "SLURM_STEP_TASKS_PER_NODE": "8,4"})
    assert found == {
        **{"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "12", "LOCAL_WORLD_SIZE": "4"},
        **{"MASTER_ADDR": "gpu03", "MASTER_PORT": "4000"},
    }
    assert step_environment({**job, "SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_a_job_asks_for_its_machines_and_starts_nothing_here(image_folder, cluster, tmp_path):
    words = words_of(image_folder, tmp_path / "run", "--slurm", "gpu", "--nodes", "2", "--gpus-per-node", "4")
    done = run_tool_here("pretrain.py", *words, "--time", "2-00", "--sbatch", "account=vision")
    assert done.returncode == 0 and "submitted job 4711" in done.stdout
    asked = set((cluster / "job.sh").read_text().splitlines())
    assert asked >= {
        *("#SBATCH --partition=gpu", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4"),
        *("#SBATCH --cpus-per-task=2", "#SBATCH --time=2880", "#SBATCH --signal=USR2@120", "#SBATCH --account=vision"),
    }
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["slurm"]


def test_without_slurm_or_with_a_mistake_nothing_is_submitted(image_folder, tmp_path, monkeypatch, cluster):
    mistaken = run_tool_here(
        "pretrain.py", *words_of(image_folder, tmp_path / "run", "--slurm", "g", "optimizer.epoch=1")
    )
    assert mistaken.returncode == 2 and "unknown key" in mistaken.stderr
    for word in ("--dry-run", "--profile"):
        here = run_tool_here("pretrain.py", *words_of(image_folder, tmp_path / "run", "--slurm", "g", word))
        assert here.returncode == 2 and f"{word} runs here" in here.stderr
    (cluster / "sbatch").write_text("#!/bin/sh\necho no such partition: g >&2; exit 1\n")
    refused = run_tool_here("pretrain.py", *words_of(image_folder, tmp_path / "run", "--slurm", "g"))
    assert refused.returncode == 2 and "no such partition: g" in refused.stderr
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    absent = run_tool_here("pretrain.py", *words_of(image_folder, tmp_path / "run", "--slurm", "g"))
    assert absent.returncode == 2 and "no srun here" in absent.stderr
    assert not (cluster / "job.sh").exists()


def run_job(cluster, *, preempt_in=None):
    """Slurm runs the job on two tasks; they are sent SIGUSR2 once a checkpoint is in `preempt_in`."""
    environment = {**os.environ, "SLURM_JOB_ID": "4711", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(TOOLS.parent)}
    job = subprocess.Popen(["bash", str(cluster / "job.sh")], env=environment)
    for _ in range(2400):
        if preempt_in is None or job.poll() is not None:
            break
        if len(list(preempt_in.glob("step_*.pt"))) >= 2:
            for task in (cluster / "tasks").read_text().split():
                os.kill(int(task), signal.SIGUSR2)
            break
        time.sleep(0.05)
    return job.wait(timeout=120)


@pytest.mark.slow
def test_a_job_that_has_to_make_room_saves_is_put_back_and_ends_as_if_it_had_not(image_folder, cluster, tmp_path):
    weights = {}
    for case in ("whole", "preempted"):
        output = tmp_path / case
        assert run_tool_here("pretrain.py", *words_of(image_folder, output, "--slurm", "gpu")).returncode == 0
        if case == "preempted":
            run_job(cluster, preempt_in=output / "checkpoints")
            log = "".join(path.read_text() for path in (output / "slurm").glob("*.err"))
            assert (cluster / "asked_of_scontrol").read_text() == "requeue 4711\n", log
            assert "saved at step" in log and "Calling checkpoint method" in log
        assert run_job(cluster) == 0
        weights[case] = read_checkpoint(checkpoint_path(output / "checkpoints", 12))["model"]
    assert "resumed from step_" in "".join(path.read_text() for path in (output / "slurm").glob("*.err"))
    assert all((weights["whole"][name] == weights["preempted"][name]).all() for name in weights["whole"])
    assert (cluster / "asked_of_scontrol").read_text() == "requeue 4711\n"  # a finished run is not put back
