"""An exported file finds what the detector finds, or there is none."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError, ConfigError, Terminated
from tests.transfer.detect.tiny_detector import NAMES, write_photo, write_run
from transfer.data.image_list import list_inputs
from transfer.detect.export import WRITERS, ExportOptions, check_exportable, export_detector, sidecar_of
from transfer.detect.export_check import EqualScoresByPosition, compare
from transfer.detect.trained import TrainedDetector, load_trained

# torch announces the end of TorchScript and of the tracing ONNX exporter; Detectron2 can be exported by nothing newer.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
OTHERS = {
    "C4": ("voc/R_50_C4_24k.yaml", ()),
    "cascade": ("coco/R_101_Cascade_FPN_1x.yaml", ("MODEL.MASK_ON", "True")),
    "RetinaNet": ("coco/R_50_RetinaNet_1x.yaml", ()),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "masks")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate([(96, 72), (60, 110)]):
        write_photo(root / f"{seed}.png", seed, size)
    return root


@pytest.fixture(scope="module")
def detector(run: Path) -> TrainedDetector:
    return load_trained(str(run))


def export(detector: TrainedDetector, photos: Path, output: Path):
    kind = "onnx" if output.suffix == ".onnx" else "torchscript"
    return export_detector(detector, ExportOptions(kind, output, list_inputs([str(photos)])))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt", "onnx"])
def test_the_file_agrees_in_sizes_other_than_the_traced_one(detector, photos, tmp_path, suffix: str) -> None:
    found = export(detector, photos, tmp_path / f"mine.{suffix}")
    assert found.images == 5  # two, smaller ones of these, and a blank one
    assert found.detections >= 10 and found.unpaired == 0 and found.boxes < 0.05 and found.scores < 1e-3
    assert b"site-packages" not in (tmp_path / f"mine.{suffix}").read_bytes()  # no paths of this machine
    sidecar = json.loads((tmp_path / f"mine.{suffix}.json").read_text())
    assert [output["name"] for output in sidecar["outputs"]] == ["boxes", "scores", "classes", "masks"]
    assert sidecar["input"]["channel_order"] == "RGB" and sidecar["class_names"] == NAMES
    assert sidecar["agreement"]["detections"] == found.detections


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt", "onnx"])
@pytest.mark.parametrize("kind", OTHERS)
def test_every_exportable_kind_agrees(photos: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    family, words = OTHERS[kind]
    detector = load_trained(str(write_run(tmp_path / "run", *words, family=family)))
    found = export(detector, photos, tmp_path / f"mine.{suffix}")
    assert found.detections >= 5 and found.boxes < 1e-2


@pytest.mark.slow
def test_keypoints_are_exported_as_torchscript_and_refused_as_onnx(photos: Path, tmp_path: Path) -> None:
    words = ("MODEL.ROI_HEADS.NUM_CLASSES", "1")
    run = write_run(tmp_path / "run", *words, family="coco/R_50_FPN_keypoint_2x.yaml", names=["person"])
    detector = load_trained(str(run))
    found = export(detector, photos, tmp_path / "mine.pt")
    assert found.detections >= 5 and found.keypoints < 1e-2
    outputs = json.loads(sidecar_of(tmp_path / "mine.pt").read_text())["outputs"]
    assert outputs[-1]["name"] == "keypoints"
    with pytest.raises(ConfigError, match="decoding of keypoints cannot be written as ONNX; pass --format torchscript"):
        export(detector, photos, tmp_path / "mine.onnx")
    assert not list(tmp_path.glob("mine.onnx*"))


def test_a_file_of_other_weights_is_refused_and_leaves_nothing(detector, photos, tmp_path, monkeypatch) -> None:
    def of_other_weights(file, network, image, content) -> None:
        weight = network.adapter.model.backbone.bottom_up.res3[0].conv2.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.05)
            traced = torch.jit.trace(network, (image,), check_trace=False)
            torch.jit.save(traced, file)
            weight.copy_(kept)

    monkeypatch.setitem(WRITERS, "torchscript", of_other_weights)
    with pytest.raises(CheckpointError, match="does not agree with the detector on image"):
        export(detector, photos, tmp_path / "mine.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_asked_to_stop_leaves_nothing(detector, photos, tmp_path, monkeypatch) -> None:
    def stopped(file, *rest) -> None:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setitem(WRITERS, "torchscript", stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a command without a handler fails here, and ends no tests
    try:
        with pytest.raises(Terminated):
            export(detector, photos, tmp_path / "mine.pt")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == []


def outputs(boxes: list[list[float]], scores: list[float], classes: list[int]) -> tuple[Tensor, ...]:
    return torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)


BOXES = [[0.0, 0, 10, 10], [20.0, 20, 40, 40]]


@pytest.mark.parametrize(
    ("exported", "agrees"),
    [
        (outputs(BOXES, [0.9, 0.5], [0, 1]), True),
        (outputs(BOXES[::-1], [0.5, 0.9], [1, 0]), True),  # another order
        (outputs([[0, 0, 10, 10.2], BOXES[1]], [0.9, 0.5], [0, 1]), False),
        (outputs(BOXES, [0.9, 0.5], [0, 0]), False),
        (outputs(BOXES, [0.9, 0.52], [0, 1]), False),
        (outputs(BOXES, [0.9, math.nan], [0, 1]), False),
        (outputs(BOXES[:1], [0.9], [0]), False),
        (outputs([*BOXES, BOXES[0]], [0.9, 0.5, 0.4], [0, 1, 1]), False),  # one more
        (outputs([*BOXES, BOXES[0]], [0.9, 0.5, math.nan], [0, 1, 1]), False),
        (outputs([*BOXES, BOXES[0]], [0.9, 0.5, 0.0502], [0, 1, 1]), True),  # at the least score
    ],
)
def test_comparison_tells_a_difference_from_another_order(exported, agrees: bool) -> None:
    class Reference(SimpleNamespace):
        outputs = ("boxes", "scores", "classes")

        def __call__(self, image: Tensor):
            return outputs(BOXES, [0.9, 0.5], [0, 1])

    images = [torch.zeros(3, 50, 50)]
    if agrees:
        assert compare(Reference(), lambda image: exported, images, min_score=0.05).detections == 2
    else:
        with pytest.raises(CheckpointError, match="does not agree"):
            compare(Reference(), lambda image: exported, images, min_score=0.05)


@pytest.mark.parametrize("field", ["masks", "keypoints"])
def test_a_value_that_is_not_finite_is_no_agreement(field: str) -> None:
    class Reference(SimpleNamespace):
        outputs = ("boxes", "scores", "classes", field)

        def __call__(self, image: Tensor):
            return (*outputs(BOXES, [0.9, 0.5], [0, 1]), torch.full((2, 1, 4, 4), 0.2))

    def exported(image: Tensor) -> tuple[Tensor, ...]:
        *rest, values = Reference()(image)
        values[1, 0, 0, 0] = math.nan
        return (*rest, values)

    images = [torch.zeros(3, 50, 50)]
    assert compare(Reference(), Reference(), images, min_score=0.05).detections == 2
    with pytest.raises(CheckpointError, match=f"does not agree with the detector on image 1.*{field} differ by nan"):
        compare(Reference(), exported, images, min_score=0.05)


def test_equal_scores_are_ordered_by_position_within_the_mode() -> None:
    values = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0]]).repeat(1, 50)
    with EqualScoresByPosition():
        best, where = values.topk(120, dim=1)
    assert best[0, :100].eq(2).all() and (where[0, :100].diff() > 0).all() and (where[0, 100:].diff() > 0).all()


@pytest.mark.slow
def test_nothing_found_is_no_agreement(detector, photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(detector.model.roi_heads.box_predictor, "test_score_thresh", 0.99)
    with pytest.raises(ConfigError, match="nothing was compared; pass --images"):
        export(detector, photos, tmp_path / "mine.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "format", "expected"),
    [
        (
            ("MODEL.META_ARCHITECTURE", "PanopticFPN"),
            "onnx",
            "PanopticFPN cannot be exported: .*GeneralizedRCNN and RetinaNet",
        ),
        (("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, True, True, True]"), "onnx", "deformable convolutions"),
        (("MODEL.KEYPOINT_ON", "True"), "onnx", "--format torchscript"),
        (("MODEL.DEVICE", "cuda"), "torchscript", "--opts MODEL.DEVICE cpu"),
    ],
)
def test_what_cannot_be_exported_is_said_with_what_works(run: Path, words, format, expected) -> None:
    from transfer.detect.config import load_detector_config

    config = load_detector_config(run / "config.yaml", words)
    with pytest.raises(ConfigError, match=expected):
        check_exportable(SimpleNamespace(config=config), format)


def test_an_existing_file_and_a_wrong_suffix_are_refused(detector, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(ConfigError, match=r"mine\.onnx exists; name another file"):
        export(detector, photos, tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"of --format torchscript expected a name in \.pt"):
        export(detector, photos, tmp_path / "mine.bin")


ALONE = """
import json, sys
import numpy as np
import torch, torchvision
image = torch.from_numpy(np.load(sys.argv[2]))
if sys.argv[1].endswith(".onnx"):
    import onnxruntime
    found = onnxruntime.InferenceSession(sys.argv[1]).run(None, {"image": image.numpy()})
else:
    found = [value.numpy() for value in torch.jit.load(sys.argv[1])(image)]
assert not {"detectron2", "transfer", "fvcore"} & set(sys.modules)
np.savez(sys.argv[3], *found)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt", "onnx"])
def test_the_file_runs_without_detectron2_and_without_this_project(detector, photos, tmp_path, suffix) -> None:
    import numpy as np

    from transfer.detect.export import ExportedNetwork

    export(detector, photos, tmp_path / f"mine.{suffix}")
    image = torch.randint(0, 256, (3, 70, 90), generator=torch.Generator().manual_seed(5)).float()
    np.save(tmp_path / "image.npy", image.numpy())
    words = [str(tmp_path / name) for name in (f"mine.{suffix}", "image.npy", "found.npz")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    expected = ExportedNetwork(detector, image)(image)
    with np.load(tmp_path / "found.npz") as found:
        values = [torch.from_numpy(found[f"arr_{i}"]) for i in range(len(expected))]
    for first, second in zip(values, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0 if suffix == "pt" else 0.05)
