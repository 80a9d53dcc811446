"""The command as it is typed: a sound run, planted mistakes, and words typed wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cases import each
from tests.tools.in_process import Done, run_tool_here

# Detectron2 leaves the configuration file that it reads open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
FAMILY = ("--config-file", "demo/R_18_FPN.yaml")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transfer.demo_data.config import SyntheticConfig
    from transfer.demo_data.write import write_dataset

    root = tmp_path_factory.mktemp("data") / "demo"
    sizes = SyntheticConfig(num_unlabelled=8, num_readout=8, num_train_scenes=4, num_test_scenes=2)
    write_dataset(sizes, root, num_workers=0)
    return root


def data(root: Path) -> list[str]:
    return [
        word
        for split in ("train", "test")
        for word in (f"--{split}-data", f"coco:{root}/coco/annotations/instances_{split}.json:{root}/coco/{split}")
    ]


def doctor(*words: object) -> Done:
    return run_tool_here("doctor.py", *words)


def test_a_sound_run_has_no_error_and_a_planted_mistake_has_exit_code_one(scenes: Path, tmp_path: Path) -> None:
    sound = doctor(*FAMILY, "--init", "random", *data(scenes), "--pictures", tmp_path / "pictures")
    assert sound.returncode == 0, sound.stdout
    assert sound.stdout.splitlines()[-1].startswith("0 errors, ")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"train.png", "test.png"}
    words = (
        *FAMILY,
        "--init",
        "random",
        *data(scenes),
        "--json",
        tmp_path / "all.json",
        "MODEL.BACKBONE.FREEZE_AT",
        "2",
    )
    planted = doctor(*words)
    assert planted.returncode == 1 and "change: MODEL.BACKBONE.FREEZE_AT 0" in planted.stdout
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["counts"]["error"] == 1 and document["findings"][0]["id"] == "config/frozen-stages"
    assert document["data"]["train"]["images"] == 4


def test_a_test_image_in_the_pool_is_an_error(scenes: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    image = sorted((scenes / "coco" / "test").iterdir())[0]
    shutil.copy(image, pool / f"other{image.suffix}")
    found = doctor(*data(scenes)[2:], "--pool", pool)
    assert found.returncode == 1 and "leakage/exact" in found.stdout and image.name in found.stdout


def test_damaged_annotations_are_findings_and_the_configuration_is_looked_at_all_the_same(
    scenes: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(scenes, tmp_path / "demo"))
    path = damaged / "coco" / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:200])
    found = doctor(*FAMILY, "--init", "random", *data(damaged), "SOLVER.BASE_LR", "0.5")
    assert found.returncode == 1 and "data/not-json" in found.stdout and "config/learning-rate" in found.stdout


@each(
    ("words", "expected"),
    [
        (("--config-file", "demo/R_18_FNP.yaml", "--init", "random"), "did you mean demo/R_18_FPN.yaml"),
        ((*FAMILY, "--init", "randm"), "did you mean --init random"),
        ((*FAMILY, "--init", "mine=absent.pth"), "no weight file at absent.pth"),
        ((*FAMILY, "--init", "random", "SOLVER.BASE_RL", "1"), "did you mean SOLVER.BASE_LR"),
        ((*FAMILY, "--init", "random", "SOLVER.BASE_LR"), "no partner"),
        ((*FAMILY, "--init", "random", "--train-data", "coc:a:b"), "expected coco:ANNOTATIONS.json:IMAGE_DIR"),
        (("--pool", "."), "give --config-file"),
        ((*FAMILY, "--pool", "."), "give --test-data"),
        ((), "nothing to look at"),
        (("--no-such-flag",), "unrecognized"),
    ],
)
def test_what_cannot_be_read_at_all_ends_with_exit_code_two(words: tuple[str, ...], expected: str) -> None:
    found = doctor(*words)
    assert found.returncode == 2 and expected in found.stderr, (found.stdout, found.stderr)


def test_paths_that_are_not_there_are_findings(tmp_path: Path) -> None:
    found = doctor("--test-data", f"coco:{tmp_path}/absent.json:{tmp_path}")
    assert found.returncode == 1 and "data/no-file" in found.stdout
