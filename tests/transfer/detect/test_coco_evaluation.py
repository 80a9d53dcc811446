"""CocoEvaluator gives Detectron2's figures and result file for the same predictions, in one process and in two."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from pretrain.base.errors import ConfigError
from tests.transfer.detect.coco_cases import Case, random_case
from transfer.detect.coco_evaluation import RESULTS, CocoEvaluator, engines_of

ROOT = Path(__file__).resolve().parents[3]
NAME = "files_of_the_coco_evaluation_tests"
TASKS = {"bbox": ("bbox",), "segm": ("bbox", "segm"), "keypoints": ("bbox", "keypoints")}


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Any]:
    """Function: a case, known to Detectron2 under NAME; forgotten afterwards."""
    yield lambda case: make_known(case, tmp_path / "truth.json")
    MetadataCatalog.pop(NAME, None)


def make_known(case: Case, path: Path) -> None:
    MetadataCatalog.pop(NAME, None)
    path.write_text(json.dumps(case.truth))
    ids = sorted(category["id"] for category in case.truth["categories"])
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        thing_classes=[f"class{number}" for number in ids],
        thing_dataset_id_to_contiguous_id={number: index for index, number in enumerate(ids)},
    )


def predictions_of(case: Case, task: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each image, in the file's order: what the model was given, and what it returns. One image has no prediction."""
    ids = sorted(category["id"] for category in case.truth["categories"])
    pairs = []
    rng = np.random.default_rng(len(case.found))
    for place, image in enumerate(case.truth["images"]):
        own = [entry for entry in case.found if entry["image_id"] == image["id"] and place]
        boxes = torch.tensor([entry["bbox"] for entry in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = Instances((image["height"], image["width"]))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.tensor([entry["score"] for entry in own], dtype=torch.float32)
        found.pred_classes = torch.tensor([ids.index(entry["category_id"]) for entry in own], dtype=torch.long)
        if task == "segm":
            masks = [rng.random((image["height"], image["width"])) < 0.6 for _ in own]
            found.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(len(own), *found.image_size))
        if task == "keypoints":
            count = len(case.sigmas) or 17
            points = torch.tensor([entry["keypoints"] for entry in own], dtype=torch.float32)
            found.pred_keypoints = points.reshape(len(own), count, 3)
        pairs.append(({"image_id": image["id"]}, {"instances": found}))
    return pairs


def copied(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs; Detectron2's evaluator shifts the keypoints that it is given."""
    outputs = []
    for _, output in pairs:
        found = output["instances"]
        fields = {name: value.clone() for name, value in found.get_fields().items()}
        outputs.append({"instances": Instances(found.image_size, **fields)})
    return [given for given, _ in pairs], outputs


def evaluated(evaluator: Any, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Any:
    evaluator.reset()
    evaluator.process(*copied(pairs))
    return evaluator.evaluate()


@pytest.mark.parametrize("without_hotcoco", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_figures_and_result_file_are_detectron2s(register, tmp_path, monkeypatch, task, without_hotcoco) -> None:
    for seed in range(2):
        case = random_case(seed, task)
        register(case)
        pairs = predictions_of(case, task)
        theirs = evaluated(
            COCOEvaluator(NAME, TASKS[task], False, str(tmp_path / "theirs"), use_fast_impl=False, kpt_oks_sigmas=case.sigmas),
            pairs,
        )  # fmt: skip
        with monkeypatch.context() as patch:
            if without_hotcoco:
                patch.setitem(sys.modules, "hotcoco", None)
            ours = evaluated(
                CocoEvaluator(NAME, TASKS[task], output_dir=tmp_path / "ours", kpt_oks_sigmas=case.sigmas), pairs
            )
        assert list(ours) == list(theirs)
        for name, figures in theirs.items():
            assert list(ours[name]) == list(figures)
            np.testing.assert_allclose(list(ours[name].values()), list(figures.values()), rtol=0, atol=1e-12 * 100)
        assert (tmp_path / "ours" / RESULTS).read_text() == (tmp_path / "theirs" / RESULTS).read_text()
        expected = "hotcoco is not installed" if without_hotcoco else ""
        assert {name: engine["reason"] for name, engine in engines_of(tmp_path / "ours").items()} == dict.fromkeys(
            TASKS[task], expected
        )


@pytest.mark.parametrize("crowds", [False, True])
def test_finding_nothing_is_ap_0_where_there_is_an_object_and_no_figure_where_there_is_none(register, crowds) -> None:
    case = random_case(0, "bbox")
    for thing in case.truth["annotations"]:
        thing["iscrowd"] = int(crowds)
    register(case)
    nothing = [(given, {"instances": output["instances"][:0]}) for given, output in predictions_of(case, "bbox")]
    figures = evaluated(CocoEvaluator(NAME, ("bbox",)), nothing)["bbox"]
    assert math.isnan(figures["AP"]) if crowds else figures["AP"] == 0


def test_the_predictions_given_stay_as_they_are(register) -> None:
    case = random_case(0, "keypoints")
    register(case)
    pairs = predictions_of(case, "keypoints")
    _, before = copied(pairs)
    evaluator = CocoEvaluator(NAME, ("bbox", "keypoints"), kpt_oks_sigmas=case.sigmas)
    evaluator.reset()
    evaluator.process([given for given, _ in pairs], [output for _, output in pairs])
    for (_, output), kept in zip(pairs, before, strict=True):
        for name in ("pred_boxes", "pred_keypoints"):
            one, other = (getattr(entry["instances"], name) for entry in (output, kept))
            assert torch.equal(getattr(one, "tensor", one), getattr(other, "tensor", other))


def test_ids_that_no_float_holds_are_evaluated_by_pycocotools(register, tmp_path) -> None:
    case = random_case(1, "bbox")
    for entry in case.truth["images"]:
        entry["id"] += 2**53 + 1
    for entry in (*case.truth["annotations"], *case.found):
        entry["image_id"] += 2**53 + 1
    register(case)
    pairs = predictions_of(case, "bbox")
    ours = evaluated(CocoEvaluator(NAME, ("bbox",), output_dir=tmp_path / "ours"), pairs)
    theirs = evaluated(COCOEvaluator(NAME, ("bbox",), False, use_fast_impl=False), pairs)
    np.testing.assert_array_equal(list(ours["bbox"].values()), list(theirs["bbox"].values()))
    assert engines_of(tmp_path / "ours")["bbox"]["name"] == "pycocotools"


def test_pycocotools_alone_can_be_asked_for_and_the_log_says_so(register, caplog) -> None:
    case = random_case(2, "bbox")
    register(case)
    with caplog.at_level("INFO"):
        evaluated(CocoEvaluator(NAME, ("bbox",), only_pycocotools=True), predictions_of(case, "bbox"))
    assert "(only pycocotools was asked for):\nAverage Precision (AP) @[ IoU=0.50:0.95" in caplog.text


def test_a_wrong_number_of_sigmas_is_refused_with_the_key(register) -> None:
    case = next(case for case in (random_case(seed, "keypoints") for seed in range(20)) if case.sigmas)
    register(case)
    evaluator = CocoEvaluator(NAME, ("bbox", "keypoints"))
    with pytest.raises(
        ConfigError, match=r"^TEST.KEYPOINT_OKS_SIGMAS: 17 sigmas, which are those of COCO; the detector f"
    ):
        evaluated(evaluator, predictions_of(case, "keypoints"))


def half_of(rank: int, folder: Path) -> None:
    """One of two processes, each with every second image."""
    case = random_case(5, "segm")
    make_known(case, folder / f"truth{rank}.json")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    own = CocoEvaluator(NAME, ("bbox", "segm"), output_dir=folder / f"of_rank_{rank}")
    results = evaluated(own, predictions_of(case, "segm")[rank::2])
    (folder / f"{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one_and_only_the_main_one_evaluates(register, tmp_path) -> None:
    case = random_case(5, "segm")
    register(case)
    alone = evaluated(CocoEvaluator(NAME, ("bbox", "segm")), predictions_of(case, "segm"))
    code = "import sys, pathlib; from {0} import half_of; half_of(int(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-W", "ignore", "-c", code.format("tests.transfer.detect.test_coco_evaluation")]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert json.dumps(main) == json.dumps(alone) and other == {}
    assert not (tmp_path / "of_rank_1").exists() and (tmp_path / "of_rank_0" / RESULTS).exists()


def test_proposals_keep_detectron2s_recalls(register) -> None:
    case = random_case(1, "bbox")
    register(case)
    proposals = []
    for _, output in predictions_of(case, "bbox"):
        found = output["instances"]
        proposals.append(
            {"proposals": Instances(found.image_size, proposal_boxes=found.pred_boxes, objectness_logits=found.scores)}
        )
    results = []
    for make in (CocoEvaluator, COCOEvaluator):
        evaluator = make(NAME, ("bbox",))
        evaluator.reset()
        evaluator.process([{"image_id": image["id"]} for image in case.truth["images"]], proposals)
        results.append(evaluator.evaluate()["box_proposals"])
    np.testing.assert_array_equal(list(results[0].values()), list(results[1].values()))
    assert results[0]["AR@100"] > 0
