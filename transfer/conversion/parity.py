"""The forward proof: the source network and the target's agree stage by stage, on real pixels. Read `prove` first.

In: a `Backbone` and the `LoadedNetwork` of the written file. Out: `Proof`, or a CheckpointError naming the stage that differs.

The source network gets pixels as its contract says (RGB or BGR, (x / 255 - mean) / std). The target's network is built and
loaded by its own library from what was written, and gets the same pixels as its own settings prepare them. So file, names,
settings and contract are all in the proof. Each control spoils one of them and must break the agreement, or the proof would
not have noticed.

An untrained network whose blocks all end in a scale of 0 shows nothing of its convolutions. There, agreement is shown as it
is, then once more with these scales at 1 in both networks, and the controls spoil the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from pretrain.model.encoder import STAGES, ResNetEncoder, uninitialised_encoder
from transfer.conversion.loaded_network import LoadedNetwork
from transfer.conversion.sidecar import BREAKS, OTHER_BRANCH, PROVEN_STAGES, TOLERANCE
from transfer.conversion.sources import Backbone
from transfer.conversion.values import silent_scales

NUM_IMAGES = 4
HEIGHT, WIDTH = 96, 128
SECOND_HEIGHT, SECOND_WIDTH = 64, 96  # of the single image that shows that batch and size are free


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


def prove(backbone: Backbone, target: LoadedNetwork, *, other_branch: Mapping[str, Tensor] | None = None) -> Proof:
    """Prove that the target's library, with what it loaded, computes what `backbone` computes.

    other_branch: tensors of the file's other copy (query/key), for the control that they are not mixed up.
    Raises CheckpointError when a tensor is not placed, a stage differs, or a control does not break the agreement.
    """
    placed = _count_placed(target, backbone)
    images = proof_images()
    wanted, differences = _agreement(backbone, target, images)
    seen = wanted
    silent = silent_scales(backbone.tensors)
    if silent and backbone.untrained:
        tensors = {**backbone.tensors, **{name: torch.ones_like(backbone.tensors[name]) for name in silent}}
        backbone, target = replace(backbone, tensors=tensors), target.with_tensors(tensors)
        seen, more = _agreement(backbone, target, images)
        differences = {stage: max(value, more[stage]) for stage, value in differences.items()}
    with torch.no_grad():
        controls = _controls(seen, target, images, backbone, other_branch)
    blind = [name for name, value in controls.items() if not value > BREAKS and name != OTHER_BRANCH]
    if blind:
        zero = f" and the last scale of {len(silent)} blocks is 0" if silent else ""
        raise CheckpointError(
            f"{backbone.path}: spoiling {', '.join(blind)} changes nothing the proof can see ({seen['res5'].std():.1e} is the "
            f"spread of res5{zero}), so agreement proves nothing. Has the encoder collapsed, or hardly been trained?"
        )
    return Proof(
        tensors_placed=placed,
        tensors_expected=len(backbone.tensors),
        images=f"{NUM_IMAGES} x {HEIGHT} x {WIDTH}, 1 x {SECOND_HEIGHT} x {SECOND_WIDTH}",
        tolerance=TOLERANCE,
        relative_difference=differences,
        negative_controls=controls,
        activations={
            stage: {"mean": wanted[stage].mean().item(), "std": wanted[stage].std().item()} for stage in STAGES
        },
    )


def _agreement(backbone: Backbone, target: LoadedNetwork, images: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(the source's stages, the largest difference of each): of all images, and of one that is smaller.

    Raises CheckpointError when a stage differs.
    """
    source = source_network(backbone)
    with torch.no_grad():
        wanted = _run_source(source, prepare(images, backbone.contract))
        differences = compare(wanted, target.stages(target.preprocessing(images)))
        _check_agreement(differences, backbone)
        single = images[:1, :, :SECOND_HEIGHT, :SECOND_WIDTH]
        again = compare(
            _run_source(source, prepare(single, backbone.contract)), target.stages(target.preprocessing(single))
        )
        _check_agreement(again, backbone)
    return wanted, {stage: max(value, again[stage]) for stage, value in differences.items()}


def proof_images() -> Tensor:
    """uint8 RGB (4, 3, 96, 128): smooth random colours with grain, always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_IMAGES, 3, 6, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)
    grain = 0.1 * torch.randn(NUM_IMAGES, 1, HEIGHT, WIDTH, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def prepare(images: Tensor, contract: InputContract) -> Tensor:
    """uint8 RGB (B, 3, H, W) -> what the source encoder was trained on, float32.

    Computed in float64, as the target's pixels are: (x / 255 - m) / s and (x - 255 m) / 255 s are the same number, but their
    roundings in float32 are not, and an encoder of a few steps of training makes 2e-5 out of that in res5 (measured).
    """
    pixels = images.double() / 255
    if contract.channel_order == "BGR":
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (contract.mean, contract.std))
    return ((pixels - mean) / std).float()


def source_network(backbone: Backbone) -> ResNetEncoder:
    """torchvision's network with the source's tensors, every one of them, in evaluation mode."""
    network = uninitialised_encoder(backbone.arch, stride_in_1x1=backbone.contract.stride_in_1x1)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**backbone.tensors, **counters}, strict=True)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = backbone.contract.bn_eps
    return network.eval()


def _run_source(source: ResNetEncoder, pixels: Tensor) -> dict[str, Tensor]:
    stages = source.stages(pixels)
    return {**stages, "pooled": torch.flatten(source.avgpool(stages["res5"]), 1)}


def _count_placed(target: LoadedNetwork, backbone: Backbone) -> int:
    """How many of the target's tensors hold the source's values: all of them, and no other, or CheckpointError."""
    state, wanted = target.tensors(), backbone.tensors
    names = sorted(set(state) | set(wanted))
    wrong = [name for name in names if not _same(state.get(name), wanted.get(name))]
    if wrong:
        raise CheckpointError(
            f"{backbone.path}: {len(names) - len(wrong)} of {len(wanted)} tensors reached the target's network; "
            f"wrong: {', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}"
        )
    return len(state)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _check_agreement(differences: Mapping[str, float], backbone: Backbone) -> None:
    absent = [stage for stage in PROVEN_STAGES if stage not in differences]
    bad = [f"{stage} {value:.1e}" for stage, value in differences.items() if not value <= TOLERANCE]
    if absent or bad:
        raise CheckpointError(
            f"{backbone.path}: the converted backbone computes something else than the source "
            f"({', '.join(bad + [f'{stage} is absent' for stage in absent])} relative, allowed {TOLERANCE:g}); nothing was written"
        )


def compare(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """Stage of `found` -> max |a - b| / max |a|; infinite where shapes differ or a is all zero."""
    return {
        stage: ((wanted[stage] - found[stage]).abs().max() / wanted[stage].abs().max()).item()
        if wanted[stage].shape == found[stage].shape and bool(wanted[stage].any())
        else float("inf")
        for stage in found
    }


def _controls(
    wanted: Mapping[str, Tensor],
    target: LoadedNetwork,
    images: Tensor,
    backbone: Backbone,
    other_branch: Mapping[str, Tensor] | None,
) -> dict[str, float]:
    """The largest difference over the stages that each deliberate mistake makes."""
    pixels = target.preprocessing(images)
    runs = {name: target.stages(mistake(images)) for name, mistake in target.preprocessing.spoiled().items()}
    if ARCHITECTURES[backbone.arch].bottleneck:
        runs["stride placement"] = target.with_stride_moved().stages(pixels)
    runs["two tensors swapped"] = target.with_tensors(_two_tensors_swapped(backbone.tensors)).stages(pixels)
    if other_branch is not None:
        runs[OTHER_BRANCH] = target.with_tensors(other_branch).stages(pixels)
    return {name: _finite(max(compare(wanted, features).values())) for name, features in runs.items()}


def _two_tensors_swapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first, second = "layer4.0.conv2.weight", "layer4.1.conv2.weight"
    return {**tensors, first: tensors[second], second: tensors[first]}


def _finite(value: float) -> float:
    return min(value, 1e9) if value == value else 1e9  # JSON has no infinity; a spoiled network may overflow
