"""Every layout as a ResNet-50 file on disk, converted, and loaded by Detectron2's own loader into an FPN and a C4 detector.

    python tests/benchmarks/layout_table.py

Out: one line a file: the layout and branch found, tensors that reached each detector bit by bit, the largest relative
difference of the forward proof, and the weakest of its controls. Then two controls of the counting: the flag that lets Detectron2
match names taken away, and res5 under another name. Exit code 1 when a file is not taken whole, or a control is.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from tests.transfer.conversion.checkpoints import MAKERS, encoder_state, save
from transfer.conversion.convert import convert
from transfer.conversion.names import DETECTRON2
from transfer.conversion.sources import load_backbone
from transfer.detect.checks import backbone_names
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import resolve_config_path

DETECTORS = {"FPN": "coco/R_50_FPN_1x.yaml", "C4": "coco/R_50_C4_1x.yaml"}
TENSORS = 265


def detectors() -> dict[str, torch.nn.Module]:
    """Mask R-CNN with both kinds of backbone, on the CPU."""
    words = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.WEIGHTS", ""]
    return {
        kind: build_model(load_detector_config(resolve_config_path(file), words)) for kind, file in DETECTORS.items()
    }


def placed(model: torch.nn.Module, weights: Path, wanted: dict[str, torch.Tensor]) -> int:
    """Backbone tensors that hold the source's values after Detectron2 has loaded `weights` over noise."""
    state = model.state_dict()
    for tensor in state.values():
        tensor.fill_(7)
    DetectionCheckpointer(model).load(str(weights))
    names = backbone_names(model)
    assert sorted(names.values()) == sorted(wanted)
    return sum(torch.equal(state[name], wanted[short]) for name, short in names.items())


def main() -> int:
    """Exit code."""
    for name in ("fvcore.common.checkpoint", "detectron2.checkpoint.c2_model_loading"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    models, bad = detectors(), 0
    query, other = encoder_state("resnet50", 0), encoder_state("resnet50", 1)
    files = [(layout, maker) for layout, makers in MAKERS.items() for maker in makers]
    print(f"{'layout':22}{'file':30}{'branch':22}{'FPN':>9}{'C4':>9}{'parity':>10}{'weakest control':>17}{'s':>6}")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "out.pth")
        for layout, maker in files:
            path = save(maker(query, other), Path(folder), layout=layout)
            start = time.perf_counter()
            sidecar = convert(path, weights, overwrite=True)
            seconds = time.perf_counter() - start
            wanted = DETECTRON2.renamed(load_backbone(path).tensors)
            counts = [placed(model, weights, wanted) for model in models.values()]
            proof = sidecar.proof
            bad += counts != [TENSORS, TENSORS]
            print(
                f"{sidecar.source['layout']:22}{maker.__name__:30}{sidecar.source['branch']:22}"
                + "".join(f"{count:5}/{TENSORS}" for count in counts)
                + f"{max(proof['relative_difference'].values()):10.0e}{min(proof['negative_controls'].values()):17.2f}{seconds:6.1f}",
                flush=True,
            )
        content = torch.load(weights, weights_only=True)
        renamed = {name.replace("res5.", "layer4."): tensor for name, tensor in content["model"].items()}
        controls = {
            "no matching": {**content, "matching_heuristics": False},
            "res5 renamed": {**content, "model": renamed},
        }
        for name, spoiled in controls.items():
            torch.save(spoiled, weights)
            counts = [placed(model, weights, wanted) for model in models.values()]
            bad += TENSORS in counts
            print(f"{'control':22}{name:30}{'':22}" + "".join(f"{count:5}/{TENSORS}" for count in counts))
    print(f"{len(files)} files; not as they should be: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
