"""Every kind of annotation data that tools write: read as a user would, to the pixel, and AP 100 for perfect predictions.

Which kinds there are and what each must give: exporters.py. The same over the inputs of ../shared/data/cases, where they are.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

from pretrain.base.errors import DataError
from tests.cases import each
from tests.transfer.data.exporters import KINDS, Kind
from transfer.data.problems import ReadOptions
from transfer.data.records import DetectionData
from transfer.data.spec import PreparedData, parse_spec, prepare_data
from transfer.detect.trainer import DetectionTrainer

ANSWERED = [kind for kind in KINDS if kind.outcome != "refused"]
PIXEL = 0.01


def prepared(spec: str, options: ReadOptions) -> PreparedData:
    return prepare_data(None, parse_spec(spec), options=options)


def average_precision(data: PreparedData, output_dir: Path, *, shift: float) -> float:
    """Box AP of predictions that are the truth, moved by `shift` of their width, by the product's evaluator."""
    config = get_cfg()
    config.OUTPUT_DIR = str(output_dir)
    config.MODEL.MASK_ON = False
    evaluator = DetectionTrainer.build_evaluator(config, data.test_name)
    evaluator.reset()
    for record in data.test.records:
        things = [thing for thing in record["annotations"] if not thing.get("iscrowd", 0)]
        boxes = torch.tensor([thing["bbox"] for thing in things], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 0::2] += shift * (boxes[:, 2:3] - boxes[:, 0:1])
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.linspace(0.9, 0.8, len(things))
        found.pred_classes = torch.tensor([thing["category_id"] for thing in things], dtype=torch.long)
        evaluator.process([record], [{"instances": found}])
    return float(evaluator.evaluate()["bbox"]["AP"])


def boxes_of(data: DetectionData) -> dict[tuple[int, int], list[tuple]]:
    """(width, height) of an image -> its objects, in an order of their own."""
    return {
        (record["width"], record["height"]): sorted(
            (data.class_names[thing["category_id"]], *thing["bbox"])
            for thing in record["annotations"]
            if not thing.get("iscrowd", 0)
        )
        for record in data.records
    }


def test_enough_kinds_are_here() -> None:
    assert len(KINDS) >= 45 and len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.outcome for kind in KINDS} == {"accepted", "repaired", "refused"}


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.name)
def test_what_a_tool_wrote_is_read_to_the_pixel_and_can_score_one_hundred(kind: Kind, tmp_path: Path, capfd) -> None:
    data = prepared(kind.write(tmp_path / "data"), kind.options)
    found, expected = boxes_of(data.test), {size: sorted(things) for size, things in kind.boxes.items()}
    assert found.keys() == expected.keys()
    for size, things in expected.items():
        assert [name for name, *_ in found[size]] == [name for name, *_ in things]
        for (_, *box), (_, *truth) in zip(found[size], things, strict=True):
            assert box == pytest.approx(truth, abs=PIXEL)
    assert (data.notes == ()) == (kind.outcome == "accepted"), data.notes
    for pattern in kind.words:
        assert any(re.search(pattern, note) for note in data.notes), (pattern, data.notes)
    assert average_precision(data, tmp_path / "run", shift=0.0) == pytest.approx(100.0)
    assert average_precision(data, tmp_path / "control", shift=0.3) < 60.0


@each("kind", [kind for kind in KINDS if kind.outcome == "refused"])
def test_what_is_in_doubt_is_refused_with_its_cause(kind: Kind, tmp_path: Path) -> None:
    spec = kind.write(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        prepared(spec, kind.options)
    for pattern in kind.words:
        assert re.search(pattern, str(caught.value)), (pattern, str(caught.value))


CASES = {  # the folder of ../shared/data/cases -> split or JSON, what the notes or the refusal say
    "coco_float_small": ("a.json", None),
    "cvat_rle_crowd_some": ("a.json", r"refused: .*marked iscrowd: 3\n(.|\n)*--crowd-as-objects"),
    "ls_backslash": ("a.json", r"backslashes: 3 "),
    "orphan": ("a.json", r"annotations of images that are not listed: 1 "),
    "over_many": ("a.json", r"boxes over the border.*: 6 "),
    "roboflow_samename": ("a.json", r"categor.*: 1 "),
    "voc_fewshot": ("test", None),
    "voc_frac_8": ("train", r"boxes with fractions of a pixel: "),
    "voc_spaces": ("train", None),
    "voc_split_bom": ("train", None),
    "voc_webp": ("train", None),
    "wh_swapped": ("a.json", r"refused: .*width and height are exchanged.*: 3\n"),
    "zero_w": ("a.json", r"boxes without width or height: 1 "),
}


@pytest.mark.realdata
@pytest.mark.parametrize("case", CASES)
def test_the_cases_of_other_peoples_tools(case: str, shared_data: Path, tmp_path: Path, capfd) -> None:
    folder = shared_data / "cases" / case
    where, words = CASES[case]
    image_dir = folder if case == "ls_backslash" else folder / "images"
    spec = f"coco:{folder / where}:{image_dir}" if where.endswith(".json") else f"voc:{folder}:{where}"
    if words is not None and words.startswith("refused: "):
        with pytest.raises(DataError) as caught:
            prepared(spec, ReadOptions())
        assert re.search(words.removeprefix("refused: "), str(caught.value))
        if case != "cvat_rle_crowd_some":
            return
        data = prepared(spec, ReadOptions(crowd_as_objects=True))
    else:
        data = prepared(spec, ReadOptions())
        assert data.notes == () if words is None else any(re.search(words, note) for note in data.notes)
    assert average_precision(data, tmp_path / "run", shift=0.0) == pytest.approx(100.0)
    assert average_precision(data, tmp_path / "control", shift=0.3) < 60.0


@pytest.mark.realdata
def test_every_case_is_tested(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "cases").iterdir() if path.is_dir()} == set(CASES)


@pytest.mark.realdata
def test_a_low_shot_split_trains_with_the_classes_named(shared_data: Path) -> None:
    root = shared_data / "cases" / "voc_fewshot"
    train, test = parse_spec(f"voc:{root}:train"), parse_spec(f"voc:{root}:test")
    with pytest.raises(DataError, match="--classes"):
        prepare_data(train, test)
    data = prepare_data(train, test, options=ReadOptions(class_names=("cat", "dog")))
    assert data.class_names == ("cat", "dog") and data.train.class_names == data.test.class_names
