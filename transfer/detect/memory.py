"""How much memory a training step takes, before anything is built: what the backward pass keeps, counted on shapes alone.

In: a Detectron2 configuration. Out: `MemoryEstimate`, for any number of images a process, and what this machine has.

Basis: the parts of the detector run on the meta device, where a tensor has a shape and no memory, and every tensor that autograd
keeps for the backward pass is counted once. To that come parameters, gradients and momentum, and WORKSPACE for kernels and the
allocator. Compared with the training memory that Detectron2's MODEL_ZOO.md prints for ten detectors (V100, 2 images a GPU),
eight are within 15 %; detectors with GroupNorm (a quarter too low, as PyTorch 1.3 kept more) and keypoints are not.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from pretrain.base.shapes_only import shapes_only

GIB = 2**30
WORKSPACE = 3 * GIB // 4  # kernels, fragments, targets: the mean of what is missing from the model zoo's figures
STATE_COPIES = 3  # a trained parameter, its gradient, its momentum
FOCAL_LOSS_COPIES = 6  # of a one-stage detector's class outputs: sigmoid, targets, weights and terms of the loss


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process.

    fixed: parameters, gradients, momentum, workspace; independent of the batch.
    per_image: what the backward pass keeps of one image at its largest training size.
    """

    fixed: int
    per_image: int

    def total(self, images: int) -> int:
        """Of an iteration with so many images a process."""
        return self.fixed + images * self.per_image

    def images_within(self, memory: int) -> int:
        """How many images a process fit into so many bytes; 0 where not one does."""
        return max(0, (memory - self.fixed) // self.per_image)


def largest_training_image(config: CfgNode) -> tuple[int, int]:
    """(height, width) in pixels of a batch of 3:4 photographs at the largest training size, a multiple of 32 as it is padded.

    A batch that holds both orientations is padded to a square of the longer side: the peak is there.
    """
    side = -(-int(min(config.INPUT.MAX_SIZE_TRAIN, max(config.INPUT.MIN_SIZE_TRAIN) * 4 / 3)) // 32) * 32
    return side, side


def estimate_memory(config: CfgNode) -> MemoryEstimate:
    """The estimate for one process of the configuration's training."""
    shapes = _only_shapes(config)
    return _estimate(_Shapes(str(shapes), shapes))


@dataclass(frozen=True)
class _Shapes:
    """A configuration that compares by its text. The text is not parsed again: that takes as long as the estimate."""

    text: str
    config: CfgNode = field(compare=False)


def _only_shapes(config: CfgNode) -> CfgNode:
    """With the defaults in place of all that decides no shape, so that the runs of a study share one estimate."""
    shapes = get_cfg()
    shapes.MODEL = config.MODEL.clone()
    shapes.MODEL.defrost()
    shapes.MODEL.DEVICE, shapes.MODEL.WEIGHTS = "meta", ""
    shapes.MODEL.PIXEL_MEAN = [0.0] * len(config.MODEL.PIXEL_MEAN)  # one for each channel
    shapes.MODEL.PIXEL_STD = [1.0] * len(config.MODEL.PIXEL_STD)
    shapes.INPUT.MIN_SIZE_TRAIN, shapes.INPUT.MAX_SIZE_TRAIN = config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN
    shapes.SOLVER.AMP.ENABLED = config.SOLVER.AMP.ENABLED
    return shapes


@functools.lru_cache(maxsize=32)
def _estimate(shapes: _Shapes) -> MemoryEstimate:
    config = shapes.config
    with shapes_only():
        model = build_model(config).train()
    with torch.device("meta"):
        height, width = largest_training_image(config)
        images = torch.empty(1, 3, height, width)
        kept = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.count, _unused):
            outputs = _run(model, images, config)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    kept.bytes += images.numel() * images.element_size() + _focal_loss(outputs)
    bytes_kept = kept.bytes // 2 if config.SOLVER.AMP.ENABLED else kept.bytes
    return MemoryEstimate(held + (STATE_COPIES - 1) * trained + WORKSPACE, bytes_kept)


class _Kept:
    """Counts storages once: a tensor that two operations keep takes its memory once."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seen: list[Any] = []  # held, so that no address is given twice
        self.addresses: set[int] = set()

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.requires_grad and tensor.is_leaf:
            return tensor  # a parameter
        if storage._cdata not in self.addresses:
            self.addresses.add(storage._cdata)
            self.seen.append(storage)
            self.bytes += storage.nbytes()
        return tensor


def _unused(tensor: Tensor) -> Tensor:
    return tensor


def _focal_loss(outputs: list[Any]) -> int:
    """Bytes of the loss over a one-stage detector's class outputs, which are many: one for each anchor and class."""
    logits = outputs[-1] if isinstance(outputs[-1], list) else []
    return FOCAL_LOSS_COPIES * sum(level.numel() * level.element_size() for level in logits)


def device_memory(config: CfgNode) -> int | None:
    """Bytes of the first device that the configuration names; None where it is not on this machine."""
    if config.MODEL.DEVICE.startswith("cuda"):
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return host_memory()


def host_memory() -> int | None:
    """Bytes of this machine's main memory; None where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _run(model: Any, images: Tensor, config: CfgNode) -> list[Any]:
    """The parts whose shapes do not depend on what is in the image. Returns their outputs."""
    features = model.backbone(images)
    outputs: list[Any] = [features]  # held while it is counted
    generator = getattr(model, "proposal_generator", None)
    if generator is not None:
        outputs.append(generator.rpn_head([features[name] for name in config.MODEL.RPN.IN_FEATURES]))
    heads = getattr(model, "roi_heads", None)
    if heads is None:  # a one-stage detector: its head runs on every position
        outputs.append(model.head([features[name] for name in config.MODEL.RETINANET.IN_FEATURES])[0])
        return outputs
    regions = config.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    foreground = max(1, int(regions * config.MODEL.ROI_HEADS.POSITIVE_FRACTION))
    some = features[config.MODEL.ROI_HEADS.IN_FEATURES[0]]

    def pooled(count: int, size: int) -> Tensor:
        return torch.empty(count, some.shape[1], size, size).requires_grad_() * 1  # no leaf, so it is counted

    if hasattr(heads, "res5"):
        shared = heads.res5(pooled(regions, config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION))
        outputs.append(heads.box_predictor(shared.mean(dim=[2, 3])))
        if config.MODEL.MASK_ON:
            outputs.append(heads.mask_head.layers(shared[:foreground]))
        return outputs
    for head in (
        heads.box_head if isinstance(heads.box_head, nn.ModuleList) else [heads.box_head]
    ):  # a list in a cascade
        outputs.append(head(pooled(regions, config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION)))
    if config.MODEL.MASK_ON:
        outputs.append(heads.mask_head.layers(pooled(foreground, config.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION)))
    if config.MODEL.KEYPOINT_ON:
        outputs.append(heads.keypoint_head.layers(pooled(foreground, config.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION)))
    return outputs
