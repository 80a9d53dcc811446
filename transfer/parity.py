"""The forward proof: the source network and Detectron2's backbone agree stage by stage, on real pixels. Read `prove` first.

In: a `Backbone` and the converted file. Out: `Proof`, or a CheckpointError naming the stage that differs.

The source network gets pixels as its contract says (RGB or BGR, (x / 255 - mean) / std). Detectron2's backbone is built by
its own builder from the sidecar's settings, loaded from the file by its own checkpointer, and gets the same pixels as
Detectron2 would normalise them (x - PIXEL_MEAN) / PIXEL_STD. So file, names, settings and contract are all in the proof. Each
control spoils one of them and must break the agreement, or the proof would not have noticed.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from pretrain.contract import InputContract
from pretrain.encoder import ARCHITECTURES, STAGES, ResNetEncoder
from pretrain.errors import CheckpointError
from transfer.names import to_detectron2
from transfer.sources import Backbone

TOLERANCE = 1e-5  # relative to the largest activation of the stage, float32
BREAKS = 10 * TOLERANCE  # a control differs more than this
NUM_IMAGES = 4
HEIGHT, WIDTH = 96, 128
OTHER_BRANCH = "the other branch"  # reported, not demanded: after a step or two both copies are still the same


@dataclass(frozen=True)
class Proof:
    """tensors_placed of tensors_expected, each once. relative_difference: stage -> max |a - b| / max |a|.

    negative_controls: what was spoiled -> the difference that this made (largest over the stages). activations: stage ->
    mean and standard deviation, for the eye: a stage near 0 or far above 1 tells of an encoder in trouble.
    """

    tensors_placed: int
    tensors_expected: int
    images: str
    tolerance: float
    relative_difference: dict[str, float]
    negative_controls: dict[str, float]
    activations: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def prove(
    backbone: Backbone, weights: Path, settings: Mapping[str, Any], *, other_branch: Mapping[str, Tensor] | None = None
) -> Proof:
    """Prove that Detectron2, reading `weights` with `settings`, computes what `backbone` computes.

    other_branch: tensors of the file's other copy (query/key), for the control that they are not mixed up.
    Raises CheckpointError when a tensor is not placed, a stage differs, or a control does not break the agreement.
    """
    images = proof_images()
    source = source_network(backbone)
    target = detectron2_backbone(settings)
    placed = _load(target, weights, backbone)
    with torch.no_grad():
        wanted = source.stages(prepare(images, backbone.contract))
        found = _run(target, images, settings)
        differences = compare(wanted, found)
        bad = [f"{stage} {value:.1e}" for stage, value in differences.items() if not value <= TOLERANCE]
        if bad:
            raise CheckpointError(
                f"{backbone.path}: the converted backbone computes something else than the source ({', '.join(bad)} relative, "
                f"allowed {TOLERANCE:g}); nothing was written"
            )
        controls = _controls(wanted, target, images, settings, backbone, other_branch)
    blind = [name for name, value in controls.items() if not value > BREAKS and name != OTHER_BRANCH]
    if blind:
        raise CheckpointError(
            f"{backbone.path}: spoiling {', '.join(blind)} changes nothing the proof can see ({wanted['res5'].std():.1e} is the "
            "spread of res5), so agreement proves nothing. Has the encoder collapsed?"
        )
    return Proof(
        tensors_placed=placed,
        tensors_expected=len(backbone.tensors),
        images=f"{NUM_IMAGES} x {HEIGHT} x {WIDTH}",
        tolerance=TOLERANCE,
        relative_difference=differences,
        negative_controls=controls,
        activations={
            stage: {"mean": features.mean().item(), "std": features.std().item()} for stage, features in wanted.items()
        },
    )


def proof_images() -> Tensor:
    """uint8 RGB (4, 3, 96, 128): smooth random colours with grain, a pure function of nothing."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_IMAGES, 3, 6, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)
    grain = 0.1 * torch.randn(NUM_IMAGES, 1, HEIGHT, WIDTH, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def prepare(images: Tensor, contract: InputContract) -> Tensor:
    """uint8 RGB (B, 3, H, W) -> what the source encoder was trained on, float32."""
    pixels = images.float() / 255
    if contract.channel_order == "BGR":
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (contract.mean, contract.std))
    return (pixels - mean) / std


def source_network(backbone: Backbone) -> ResNetEncoder:
    """torchvision's network with the source's tensors, every one of them, in evaluation mode."""
    network = ResNetEncoder(backbone.arch, stride_in_1x1=backbone.contract.stride_in_1x1)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**backbone.tensors, **counters}, strict=True)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = backbone.contract.bn_eps
    return network.eval()


def detectron2_backbone(settings: Mapping[str, Any]) -> nn.Module:
    """Detectron2's ResNet for the sidecar's settings, with all five stages as outputs, in evaluation mode."""
    config: CfgNode = get_cfg()
    config.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    config.MODEL.BACKBONE.FREEZE_AT = 0
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    for key, value in settings.items():
        config.merge_from_list([key, value])
    backbone: nn.Module = build_backbone(config, ShapeSpec(channels=3))
    return backbone.eval()


def _load(target: nn.Module, weights: Path, backbone: Backbone) -> int:
    """Load with Detectron2's checkpointer, then count which tensors hold the source's values."""
    for tensor in target.state_dict().values():  # a value that no checkpoint has: what is not loaded stays visible
        tensor.fill_(7.25) if tensor.is_floating_point() else tensor.zero_()
    with _quiet("fvcore.common.checkpoint", "detectron2.checkpoint"):
        DetectionCheckpointer(target).load(str(weights))
    wanted = to_detectron2(backbone.tensors)
    state = {name: value for name, value in target.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = [name for name in sorted(set(state) | set(wanted)) if not _same(state.get(name), wanted.get(name))]
    if wrong:
        raise CheckpointError(
            f"{backbone.path}: {len(set(state) | set(wanted)) - len(wrong)} of {len(wanted)} tensors reached Detectron2's "
            f"backbone; wrong: {', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}"
        )
    return len(state)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _run(target: nn.Module, images: Tensor, settings: Mapping[str, Any], **spoiled: Any) -> dict[str, Tensor]:
    """Detectron2's preprocessing (GeneralizedRCNN.preprocess_image) and its backbone."""
    values = {**settings, **spoiled}
    pixels = images.float()
    if values["INPUT.FORMAT"] == "BGR":
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(values[key]).view(3, 1, 1) for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"))
    features: dict[str, Tensor] = target((pixels - mean) / std)
    return features


def compare(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """Stage -> max |a - b| / max |a|; infinite where shapes differ or a is all zero."""
    return {
        stage: ((a[stage] - b[stage]).abs().max() / a[stage].abs().max()).item()
        if a[stage].shape == b[stage].shape and bool(a[stage].any())
        else float("inf")
        for stage in STAGES
    }


def _controls(
    wanted: Mapping[str, Tensor],
    target: nn.Module,
    images: Tensor,
    settings: Mapping[str, Any],
    backbone: Backbone,
    other_branch: Mapping[str, Tensor] | None,
) -> dict[str, float]:
    """The largest difference over the stages that each deliberate mistake makes."""
    swapped = {"RGB": "BGR", "BGR": "RGB"}[settings["INPUT.FORMAT"]]
    deviation = 58 if set(settings["MODEL.PIXEL_STD"]) == {1.0} else 1  # MSRA's weights want 1 themselves
    runs = {
        "channel order": _run(target, images, settings, **{"INPUT.FORMAT": swapped}),
        f"pixel std of {deviation}": _run(target, images, settings, **{"MODEL.PIXEL_STD": [float(deviation)] * 3}),
    }
    if ARCHITECTURES[backbone.arch].bottleneck:
        strided = detectron2_backbone(
            {**settings, "MODEL.RESNETS.STRIDE_IN_1X1": not settings["MODEL.RESNETS.STRIDE_IN_1X1"]}
        )
        strided.load_state_dict(target.state_dict())
        runs["stride placement"] = _run(strided, images, settings)
    one_off = copy.deepcopy(target)
    one_off.load_state_dict(to_detectron2(_two_tensors_swapped(backbone.tensors)), strict=False)
    runs["two tensors swapped"] = _run(one_off, images, settings)
    if other_branch is not None:
        one_off.load_state_dict(to_detectron2(other_branch), strict=False)
        runs[OTHER_BRANCH] = _run(one_off, images, settings)
    return {name: _finite(max(compare(wanted, features).values())) for name, features in runs.items()}


def _two_tensors_swapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first, second = "layer4.0.conv2.weight", "layer4.1.conv2.weight"
    return {**tensors, first: tensors[second], second: tensors[first]}


def _finite(value: float) -> float:
    return min(value, 1e9) if value == value else 1e9  # JSON has no infinity; a spoiled network may overflow


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
