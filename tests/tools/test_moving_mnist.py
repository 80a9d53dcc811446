"""tools/moving_mnist.py as a user types it: overrides after list options, exit codes, nothing half written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.tools.in_process import run_tool_here

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

QUICK = [
    *("scene.num_frames=2", "scene.background_size=64", "encoder.input_pixels=32", "encoder.width=4"),
    *("encoder.feature_dim=16", "encoder.head_dim=8", "training.batch_size=16", "training.steps=2"),
    *("training.supervised_steps=2", "training.device=cpu", "probe.num_train=40", "probe.num_test=40"),
    "probe.information_batches=2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 3)
    np.savez(root / "digits.npz", images=rng.integers(0, 256, (30, 28, 28), dtype=np.uint8), labels=labels)
    for name in ("sky", "wood"):
        (root / "places" / name).mkdir(parents=True)
        for number in range(3):
            picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "places" / name / f"{number}.png")
    return root


def start(data, output_dir, *arguments):
    sources = ("--digits", data / "digits.npz", "--backgrounds", data / "places")
    return run_tool_here("moving_mnist.py", *sources, "--output-dir", output_dir, *arguments)


def test_overrides_may_follow_list_options_and_a_second_start_trains_nothing(data, tmp_path):
    first = start(data, tmp_path / "run", "--seeds", "3", "--sharing", "position,digit", "digit", *QUICK)
    assert first.returncode == 0, first.stderr
    rows = {line.split(" | ")[0] for line in (tmp_path / "run" / "table.md").read_text().splitlines()}
    assert {"| digit", "| digit+position"} <= rows and "| position" not in rows
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["training"]["steps"] == 2
    assert {cell["seed"] for cell in results["cells"]} == {3}
    second = start(data, tmp_path / "run", *QUICK, "--sharing", "digit", "digit+position", "--seeds", "3")
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("7 of 7 cells are finished already\n# ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sharing", "digits"], "did you mean digit?"),
        (["--seeds", "0", "x"], "--seeds"),
        (["training.stepz=3"], "did you mean `training.steps`?"),
        (["--config-file", "configs/views/moving_mnist_smal.yaml"], "did you mean"),
    ],
)
def test_a_users_mistake_ends_with_exit_code_2_and_no_folder(data, tmp_path, arguments, message):
    done = start(data, tmp_path / "run", *QUICK, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
