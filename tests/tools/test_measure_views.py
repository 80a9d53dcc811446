"""tools/measure_views.py as a user runs it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.base.record import read_record
from tests.tools.in_process import run_tool_here as run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / f"{index}.png")
    return root


@pytest.mark.slow
def test_a_run_is_measured_and_the_figure_is_printed_and_written(images, tmp_path):
    overrides = [f"data.root={images}", "method.queue_size=20", "method.jigsaw=false", "optimizer.batch_size=8"]
    trained = run(
        "pretrain.py", "--config-file", "configs/pretrain/smoke.yaml", "--output-dir", tmp_path / "run", *overrides
    )
    assert trained.returncode == 0, trained.stderr
    (checkpoint, *_) = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"), reverse=True)
    out = tmp_path / "new" / "folder" / "result.json"
    words = ("--checkpoint", checkpoint, "--data", images, "--batch-size", 10, "--json", out)
    measured = run("measure_views.py", *words)
    assert measured.returncode == 0, measured.stderr
    record = read_record(out)
    assert record.kind == "measurement" and record.details["same_as_training"]
    assert f"{record.figures['info_nce']:.3f} nats" in measured.stdout and "ceiling 2.30" in measured.stdout
    assert record.commands[0].startswith("python tools/measure_views.py --checkpoint")
    trained = read_record(tmp_path / "run" / "record.json")
    assert record.initialisation.pretraining == {"seed": trained.seeds["run"], "hash": trained.hash}


def test_bad_input_ends_with_exit_code_2_and_nothing_written(images, tmp_path):
    found = run("measure_views.py", "--checkpoint", tmp_path / "x.pt", "--data", images, "--json", tmp_path / "r.json")
    assert found.returncode == 2 and found.stderr.startswith("error: no checkpoint at")
    assert not (tmp_path / "r.json").exists()
