"""tools/compare.py as it is typed: flags as keys of a study, what is refused before anything is written, one study to its end."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from pretrain.base.record import read_record
from tests.tools.in_process import TOOLS, run_tool_here
from tests.transfer.fake_tools import run_here
from transfer.compare.study_config import DetectConfig, InitConfig, PretrainConfig, ReadoutConfig, load_study
from transfer.compare.study_flags import flag_values, init_value


def draw(rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, list[int]]]]:
    """64 x 64 pixels with one or two bright objects of two kinds, and their boxes."""
    picture = Image.fromarray(rng.integers(0, 90, (64, 64, 3), dtype=np.uint8))
    pen, boxes = ImageDraw.Draw(picture), []
    for _ in range(int(rng.integers(1, 3))):
        x, y, kind = int(rng.integers(0, 34)), int(rng.integers(0, 34)), int(rng.integers(0, 2))
        (pen.ellipse if kind else pen.rectangle)((x, y, x + 28, y + 28), fill=(230, 60, 60) if kind else (60, 90, 230))
        boxes.append((kind, [x, y, 28, 28]))
    return picture, boxes


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ (24, two of them labelled images too), labelled/ (12) with labels.json, classes/ of two."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for name in ("photos", "labelled", "classes/cup", "classes/leaf"):
        (root / name).mkdir(parents=True)
    images, annotations = [], []
    for i in range(12):
        picture, boxes = draw(rng)
        picture.save(root / "labelled" / f"{i}.png")
        picture.save(root / "photos" / f"copy{i}.png")
        picture.save(root / "classes" / ("cup" if i % 2 else "leaf") / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 64})
        for kind, box in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": kind + 1,
                    "bbox": box,
                    "area": 784,
                    "iscrowd": 0,
                }
            )
    for i in range(12):
        draw(rng)[0].save(root / "photos" / f"{i}.png")
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "leaf"}]
    (root / "labels.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    annotations[0] = {**annotations[0], "category_id": 9}
    (root / "bad.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    (root / "single" / "cup").mkdir(parents=True)
    draw(rng)[0].save(root / "single" / "cup" / "0.png")
    return root


PLAIN = ("--pool", "photos", "--train", "coco:labels.json:labelled", "--init", "mine=pretrain", "--init", "random")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to compare: pass --init"),
        (("--init", "random"), "nothing to measure: pass --train"),
        (("--init", "mine=pretrain", "--train", "coco:labels.json:labelled"), "pass --pool IMAGES"),
        (("--init", "pretrain", *PLAIN[:4]), "needs a name for its row, for example --init mine=pretrain"),
        (("--init", "rndom", *PLAIN[2:4]), "did you mean random"),
        (("--init", "mine=", *PLAIN), "nothing after the ="),
        (("--init", "theirs=absent.pth", *PLAIN), "inits: theirs: no file at absent.pth"),
        (("--init", "mine=random", *PLAIN), "different names"),
        (("--init", "a/b=random", *PLAIN), "letters, digits"),
        (
            ("--pool", "photos", "--train", "coco:labels.json:labelled", "--init", "random"),
            "nothing is pre-trained on it",
        ),
        ((*PLAIN, "--test", "coco:absent.json:labelled"), "no annotation file at absent.json"),
        (("--test", "coco:a:b", "--init", "random", "--readout", "classes"), "--test without --train"),
        ((*PLAIN[:2], "--train", "labels.json", *PLAIN[4:]), "expected coco:ANNOTATIONS.json:IMAGE_DIR"),
        ((*PLAIN[:2], "--train", "coco:absent.json:labelled", *PLAIN[4:]), "no annotation file at absent.json"),
        (("--pool", "absent", *PLAIN[2:]), "absent: expected a folder of images"),
        ((*PLAIN, "--seeds", "0"), "--seeds 0: expected how many"),
        ((*PLAIN, "--fractions", "0.1", "two"), "expected numbers in"),
        ((*PLAIN, "--fractions", "0", "1"), "expected different numbers in (0, 1]"),
        ((*PLAIN, "--fractions", ".1", ".1"), "expected different numbers in (0, 1]"),
        ((*PLAIN, "--budget", "soon"), "expected a time such as 2h"),
        ((*PLAIN, "--baseline", "theirs"), "baseline: expected one of the inits"),
        ((*PLAIN, "--config-file", "own_dta"), "did you mean own_data.yaml"),
        ((*PLAIN, "detect.iteration=5"), "did you mean `detect.iterations`"),
        ((*PLAIN, "detect.overrides=[SOLVER.MAX_ITERS, '5']"), "unknown key SOLVER.MAX_ITERS"),
        ((*PLAIN, "pretrain.overrides=[optimizer.epoch=1]"), "did you mean `optimizer.epochs`"),
        (PLAIN, "fewer than the 128 of a batch"),
        ((*PLAIN, "detect.config_file=demo/R_18_FNP.yaml"), "did you mean demo/R_18_FPN.yaml"),
        (("--init", "random", "--readout", "labelled"), "one folder a class"),
        ((*PLAIN, "--readout", "nowhere"), "nowhere: expected a folder with one folder a class"),
        ((*PLAIN, "--init", "theirs=labels.json"), "inits: theirs: "),
        ((*PLAIN, "detect.test_fraction=1"), "error: command line: detect: detect.test_fraction expected in (0, 1)"),
        ((*PLAIN[:2], "--train", "coco:bad.json:labelled", *PLAIN[4:]), "bad.json: annotations[0] (0.png)"),
        ((*PLAIN, "--test", "coco:bad.json:labelled"), "1 error in the labelled images; nothing was run"),
        (("--init", "random", "--readout", "single"), "needs two classes or more, found only 'cup'"),
        (
            ("--init", "random", "--readout", "classes", "--pretrain-seeds", "2"),
            "--pretrain-seeds without a pre-training",
        ),
        ((*PLAIN, "--executor", "slurm"), "needs --partition"),
        ((*PLAIN, "--init", "theirs=pretrian"), "did you mean pretrain?"),
        ((*PLAIN, "--pool", "nowhere"), "nowhere: expected a folder of images"),
    ],
)
def test_what_is_typed_wrong_ends_with_exit_code_2_and_writes_no_run(
    own: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    found = run_tool_here("compare.py", *words, "--output-dir", tmp_path / "out", cwd=own)
    assert (found.returncode, message in found.stderr) == (2, True), found.stderr
    # What the images decide is known once they are read: their comparison with the pool is kept for the next start.
    late = any(text in message for text in ("fewer than the 128 of a batch", "did you mean", "unknown key SOLVER"))
    left = {path.name for path in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert left <= ({".lock", "splits"} if late else set())


def test_flags_are_keys_of_a_study_and_key_value_words_go_over_them(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_arguments = runpy.run_path(str(TOOLS / "compare.py"))["parse_arguments"]
    monkeypatch.chdir(own)
    words = [
        "--readout",
        "classes",
        "--seeds",
        "2",
        "--pretrain-seeds",
        "3",
        "--fractions",
        ".5",
        "1",
        "detect.seeds=[7]",
        "--budget",
        "2h",
    ]
    monkeypatch.setattr("sys.argv", ["compare.py", *PLAIN, *words, "--output-dir", str(tmp_path)])
    arguments = parse_arguments()
    config = load_study(None, arguments.overrides, flags=flag_values(arguments))
    assert config.detect == DetectConfig("coco:labels.json:labelled", seeds=(7,), fractions=(0.5, 1.0))
    assert config.readout == ReadoutConfig("classes", seeds=(0, 1), fractions=(0.5, 1.0))
    assert config.pretrain == PretrainConfig(seeds=(0, 1, 2)) and config.budget == "2h" and config.pool == "photos"
    assert config.inits == (InitConfig("mine", "pretrained"), InitConfig("random", "none"))
    # The same as a file, and flags over it.
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"base": "own_data.yaml", "pool": "photos", "detect": {"fractions": [0.2]}}))
    monkeypatch.setattr(
        "sys.argv", ["compare.py", "--config-file", str(path), "--seeds", "1", "--output-dir", str(tmp_path)]
    )
    arguments = parse_arguments()
    config = load_study(arguments.config_file, arguments.overrides, flags=flag_values(arguments))
    assert config.detect == DetectConfig("coco:data/labels.json:data/labelled", seeds=(0,), fractions=(0.2,))
    assert config.pool == "photos" and config.readout is None


def test_an_initialisation_is_typed_as_it_is_read() -> None:
    assert init_value("scratch=random") == {"name": "scratch", "weights": "none"}
    assert init_value("msra_r50") == {"name": "msra_r50", "weights": "msra_r50"}
    assert init_value("theirs=a=b.pth") == {"name": "theirs", "weights": "a=b.pth"}


SMALL = (
    *(
        "pretrain.overrides=[views.image_size=32, views.patch_size=20, optimizer.batch_size=8, method.queue_size=8, method.batchnorm_images=8, method.jigsaw_fraction=0.5, data.num_workers=0]",
    ),
    *(
        "detect.overrides=[INPUT.MIN_SIZE_TRAIN, '(64,)', INPUT.MIN_SIZE_TEST, '64', SOLVER.IMS_PER_BATCH, '2', DATALOADER.NUM_WORKERS, '0']",
    ),
    *("readout.overrides=[image_size=32, epochs=1, num_workers=0]", "pretrain.epochs=1", "detect.iterations=2"),
)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Detectron2's
def test_one_command_goes_from_photos_to_a_report_and_a_second_time_runs_nothing(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.compare.runner.run_logged", run_here)  # saves seven starts
    out = tmp_path / "out"
    words = (*PLAIN, "--readout", "classes", "--output-dir", out, *SMALL)
    done = run_tool_here("compare.py", *words, cwd=own)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert (
        "split: 9 training and 3 test images" in done.stdout
        and "are test images or changed copies of them" in done.stdout
    )
    for row in ("random/f1_s0", "mine/p0_f1_s0"):
        record = read_record(out / "detect" / row / "record.json")
        assert record.status == "done" and record.data["train"].num_images == 9 and record.data["test"].num_images == 3
        assert read_record(out / "readout" / row / "record.json").status == "done"
    start = read_record(out / "detect" / "mine" / "p0_f1_s0" / "record.json").initialisation
    assert (
        start is not None and start.name == "mine" and start.pretraining is not None and start.pretraining["seed"] == 0
    )
    saved = json.loads((out / "study.json").read_text())
    assert set(saved["scores"]["bbox/AP50"]) == {"mine", "random"} == set(saved["scores"]["readout/top1"])
    assert "NOT AVERAGED" not in done.stdout and (out / "report" / "index.html").is_file()
    assert (
        len(read_record(out / "pretrain" / "seed0" / "record.json").data)
        and "pool.txt" in (out / "logs" / "pretrain-seed0.log").read_text() + done.stdout
    )
    again = run_tool_here("compare.py", *words, cwd=own)
    assert again.returncode == 0 and again.stdout.count("done already") == 7
