"""What an expert would say of a detection configuration before it runs: mistakes that no program stops at, with the line to change.

In: a configuration (as asked for or resolved), the data, the initialisation, the number of processes. Out: `Finding`s, the worst
first. Nothing is read but the sidecar of the weights, nothing is built with values, nothing raises for what it finds.

Severity: "error" where the run would fail or teach nothing; "warning" where it would be worse, longer or less safe than it need be;
"note" for what an expert would mention. Rules that hold a figure say where it comes from. One check is one function of CHECKS.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import ConfigError, UserError
from transfer.conversion.published import SUPERVISED, catalog_entry, is_supervised_address
from transfer.conversion.sidecar import detectron2_settings, parse_sidecar, sidecar_path
from transfer.data.findings import Finding, Severity, by_severity
from transfer.data.records import DetectionData
from transfer.data.spec import PreparedData
from transfer.detect.anchors import (
    AnchorAdvice,
    anchors_to_pass,
    level_sizes,
    level_strides,
    resize_factor,
    resized_boxes,
    show_sizes,
)
from transfer.detect.checks import as_argument, config_value, contradictions
from transfer.detect.inits import Init
from transfer.detect.memory import GIB, MemoryEstimate, device_memory, estimate_memory, largest_training_image
from transfer.detect.scaling import (
    EPOCHS,
    MAX_EPOCHS,
    PUBLISHED_PROCESSES,
    STEPS_AT,
    falling_at,
    images_a_process,
    linear_rate,
    own_schedule,
)

TRAINED_BN = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
OF_ONE_PROCESS = ("BN",)  # statistics of the images of one process
LAST_STAGE = 5  # FREEZE_AT 5: the whole backbone
PROBE = 4  # FREEZE_AT of a protocol that measures fixed features: stem to res4 (ssl-transfer), or all (a frozen probe)
FEW_FOR_BN = 4  # images. ResNet-50's error on ImageNet by images a GPU: 32: 23.6, 8: 24.8, 4: 27.3, 2: 34.7 (Wu & He, 2018, table 2)
FEW_ITERATIONS = 50  # a trial, which nobody judges by its figures
RATE_ABOVE = {True: 2.5, False: 1.5}  # times the linear rule, with and without clipped gradients
RATE_BELOW = 0.25
FEW_EPOCHS = 5
OFF_RULE = 4  # times the schedule by the rule of transfer/detect/scaling.py
LONG_RUN = 1000  # iterations
MANY_CHECKPOINTS = 200
COSTLY_PRECISE_BN = 0.1  # of the iterations
USUAL_GPU = 24 * GIB  # what a batch for eight GPUs is compared with where the device is not known
TINY = 8  # pixels: a side of two cells of the finest feature map (stride 4)
MANY_TINY = 0.25
UPSCALED = 2.5  # times: 640 px photos of COCO become 800 to 1333, at most 2.1
FEW_TEST_IMAGES = 30
MANY_UNLABELLED = 0.2
LOW_SCORE = 0.1
SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
USED_FOR_MEMORY = 0.95


@dataclass(frozen=True)
class Case:
    """What a check sees: the arguments of `diagnose_config`, and what several checks derive from them."""

    config: CfgNode
    data: PreparedData | None
    init: Init | None
    num_processes: int
    memory: int | None

    @cached_property
    def weights(self) -> str:
        return self.init.weights if self.init is not None else self.config.MODEL.WEIGHTS

    @cached_property
    def trained(self) -> Literal["random", "with labels", "without labels"]:
        """How the weights were trained; weights of which nothing is known count as trained without labels."""
        if not self.weights:
            return "random"
        if catalog_entry(self.weights) is not None or is_supervised_address(self.weights):
            return "with labels"
        method = (_sidecar_of(self.weights) or {}).get("source", {}).get("method")
        return "with labels" if method == SUPERVISED else "without labels"

    @cached_property
    def resnet_norm(self) -> str:
        return str(self.config.MODEL.RESNETS.NORM)

    @cached_property
    def norms(self) -> dict[str, str]:
        """Key -> kind, of the norms that this detector builds."""
        keys = ["MODEL.RESNETS.NORM"]
        keys += ["MODEL.FPN.NORM"] if "fpn" in self.config.MODEL.BACKBONE.NAME else []
        if self.config.MODEL.META_ARCHITECTURE != "RetinaNet" and "Res5" not in self.config.MODEL.ROI_HEADS.NAME:
            keys += ["MODEL.ROI_BOX_HEAD.NORM", *(["MODEL.ROI_MASK_HEAD.NORM"] if self.config.MODEL.MASK_ON else [])]
        return {key: str(config_value(self.config, key)) for key in keys}

    @cached_property
    def trains_batchnorm(self) -> bool:
        frozen = self.config.MODEL.BACKBONE.FREEZE_AT >= LAST_STAGE
        return any(norm in TRAINED_BN for key, norm in self.norms.items() if not (frozen and "RESNETS" in key))

    @property
    def images(self) -> int:
        return int(self.config.SOLVER.IMS_PER_BATCH)

    @property
    def images_a_process(self) -> int:
        return max(1, self.images // self.num_processes)

    @property
    def train(self) -> DetectionData | None:
        return self.data.train if self.data is not None else None

    @property
    def test(self) -> DetectionData | None:
        return self.data.test if self.data is not None else None

    @cached_property
    def estimate(self) -> MemoryEstimate | None:
        """None for a detector that cannot be built without its user's help."""
        try:
            return estimate_memory(self.config)
        except Exception:  # a configuration of parts that fit not together; building it will say so
            return None

    @cached_property
    def anchor_levels(self) -> bool:
        """Whether the anchors can be compared at all."""
        return len(level_sizes(self.config)) == len(level_strides(self.config)) > 0

    @cached_property
    def advice(self) -> AnchorAdvice | None:
        return (
            anchors_to_pass(self.train.records, self.config) if self.train is not None and self.anchor_levels else None
        )


def diagnose_config(
    config: CfgNode,
    *,
    data: PreparedData | None = None,
    init: Init | None = None,
    num_processes: int = 1,
    memory: int | None = None,
) -> list[Finding]:
    """Everything that CHECKS find, the worst first.

    data: the user's own; None where the configuration names built-in data sets. init: None takes MODEL.WEIGHTS. memory: bytes of one
    device; None asks this machine.
    """
    case = Case(config, data, init, num_processes, device_memory(config) if memory is None else memory)
    return by_severity(finding for check in CHECKS for finding in _run(check, case))


def _run(check: Callable[[Case], Iterator[Finding]], case: Case) -> list[Finding]:
    """The findings of one check. Values that it cannot be computed with (a batch of 0, an empty list of sizes) are found as such:
    Detectron2 stops at them with a message of its own, or with none."""
    try:
        return list(check(case))
    except (ArithmeticError, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return [_finding("unchecked", "note", check.__name__, f"could not be checked with these values ({reason})", "")]


def _finding(what: str, severity: Severity, where: str, message: str, change: str = "") -> Finding:
    return Finding(f"config/{what}", severity, where, message, change)


def _sidecar_of(weights: str) -> Mapping[str, Any] | None:
    path = Path(weights)
    if "://" in weights or not sidecar_path(path).is_file():
        return None
    try:
        return parse_sidecar(path).to_dict()
    except UserError:
        return None  # the run refuses it with its reason


# --- the backbone and its weights -------------------------------------------------------------------------------------


def frozen_stages(case: Case) -> Iterator[Finding]:
    """Stages that are not trained, of weights that are no classifier's."""
    stages = case.config.MODEL.BACKBONE.FREEZE_AT
    if stages <= 0 or case.trained == "with labels":
        return
    where, change = "MODEL.BACKBONE.FREEZE_AT", "MODEL.BACKBONE.FREEZE_AT 0"
    if stages >= (LAST_STAGE if case.trained == "random" else PROBE):
        yield _finding(
            "frozen-stages",
            "note",
            where,
            f"{stages}: the backbone stays as it is, as a frozen protocol asks; no figure to put beside those of fine-tuning",
            "",
        )
    elif case.trained == "random":
        yield _finding(
            "frozen-stages",
            "error",
            where,
            f"{stages}: the first {stages} stages stay random; expected 0 for random weights",
            change,
        )
    else:
        yield _finding(
            "frozen-stages",
            "warning",
            where,
            f"{stages} is Detectron2's default for supervised weights; expected 0 for weights trained without labels, as MoCo and InfoMin "
            "fine-tune them",
            change,
        )


def frozen_batchnorm(case: Case) -> Iterator[Finding]:
    """FrozenBN, which is a fixed scale, under weights whose scale is not that of a supervised classifier."""
    if case.resnet_norm != "FrozenBN" or case.trained == "with labels":
        return
    if case.config.MODEL.BACKBONE.FREEZE_AT >= PROBE and case.trained != "random":
        return
    norm = "SyncBN" if case.num_processes > 1 else "BN"
    if case.trained == "random":
        severity: Severity = "error"
        message = "FrozenBN of random weights normalises nothing: its statistics are 0 and 1, and stay so"
    else:
        severity = "warning"
        message = "FrozenBN keeps the statistics of the pre-training; weights trained without labels are published with trained SyncBN"
    yield _finding("frozen-batchnorm", severity, "MODEL.RESNETS.NORM", message, f"MODEL.RESNETS.NORM {norm}")


def extra_norm(case: Case) -> Iterator[Finding]:
    """The norm after res5 of a C4 detector, which unsupervised features need."""
    if case.config.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return  # a one-stage detector has no region heads, whatever their key says
    if case.config.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and case.trained != "with labels" and case.trains_batchnorm:
        yield _finding(
            "extra-norm",
            "warning",
            "MODEL.ROI_HEADS.NAME",
            "Res5ROIHeads has no norm after res5; weights without labels have no fixed scale there, and MoCo's and InfoMin's C4 "
            "detectors add one",
            "MODEL.ROI_HEADS.NAME Res5ROIHeadsExtraNorm",
        )


def syncbn_one_process(case: Case) -> Iterator[Finding]:
    """SyncBN with nobody to agree with."""
    keys = [key for key, norm in case.norms.items() if "SyncBN" in norm]
    if not keys or case.num_processes > 1:
        return
    few = case.images < FEW_FOR_BN
    yield _finding(
        "syncbn-one-process",
        "warning" if few else "note",
        keys[0],
        f"SyncBN has one process to agree with: it is plain BN over the {case.images} image{'s' * (case.images > 1)} of a batch"
        + (f", and from fewer than {FEW_FOR_BN} images its statistics are noise" if few else ""),
        f"SOLVER.IMS_PER_BATCH {FEW_FOR_BN} or more, with SOLVER.AMP.ENABLED True or smaller INPUT.MIN_SIZE_TRAIN where memory is short"
        if few
        else "",
    )


def batchnorm_few_images(case: Case) -> Iterator[Finding]:
    """Plain BN whose statistics come from the few images of one process."""
    keys = [key for key, norm in case.norms.items() if norm in OF_ONE_PROCESS]
    if not keys or not case.trains_batchnorm or case.images_a_process >= FEW_FOR_BN:
        return
    words = f"BN takes its statistics from the {case.images_a_process} image{'s' * (case.images_a_process > 1)} of one process"
    if case.num_processes > 1:
        change = " ".join(f"{key} SyncBN" for key in keys)
        words += f", {case.num_processes} of them with statistics of their own"
    else:
        change = f"SOLVER.IMS_PER_BATCH {FEW_FOR_BN} or more"
    yield _finding("batchnorm-few-images", "warning", keys[0], f"{words}; expected {FEW_FOR_BN} or more", change)


def precise_batchnorm(case: Case) -> Iterator[Finding]:
    """The statistics that the evaluation uses."""
    precise, iterations = case.config.TEST.PRECISE_BN, case.config.SOLVER.MAX_ITER
    if not case.trains_batchnorm:
        return
    if not precise.ENABLED:
        costly = COSTLY_PRECISE_BN * iterations < precise.NUM_ITER
        yield _finding(
            "precise-bn-off",
            "note" if costly else "warning",
            "TEST.PRECISE_BN.ENABLED",
            "BatchNorm is trained and evaluated with its running average over the last few batches; the published recipes measure the "
            f"statistics anew over {precise.NUM_ITER} batches before each evaluation",
            "TEST.PRECISE_BN.ENABLED True",
        )
    elif iterations < precise.NUM_ITER:
        yield _finding(
            "precise-bn-long",
            "note",
            "TEST.PRECISE_BN.NUM_ITER",
            f"TEST.PRECISE_BN runs {precise.NUM_ITER} batches after the {iterations} iterations",
            f"for a short trial TEST.PRECISE_BN.NUM_ITER {iterations}",
        )


def input_contract(case: Case) -> Iterator[Finding]:
    """Channel order, mean, deviation, stride and network against what the weights were trained with."""
    settings: Mapping[str, Any] = case.init.settings if case.init is not None else {}
    source = f"--init {case.init.name}" if case.init is not None else ""
    if not settings and case.weights:
        entry = catalog_entry(case.weights)
        if entry is not None:
            settings, source = detectron2_settings(entry.arch, entry.contract), entry.source
        else:
            settings, source = (
                (_sidecar_of(case.weights) or {}).get("detectron2", {}),
                str(sidecar_path(Path(case.weights))),
            )
    if case.trained == "random" and case.init is not None and case.init.origin == "random":
        return  # random weights expect nothing; the keys keep a comparison fair
    for key, line in contradictions(case.config, {k: v for k, v in settings.items() if _has(case.config, k)}).items():
        found, _, _ = line.strip().partition("; pass: ")
        yield _finding("input-contract", "error", key, f"{found}, says {source}", f"{key} {as_argument(settings[key])}")


def _has(config: CfgNode, key: str) -> bool:
    try:
        config_value(config, key)
    except UserError:
        return False
    return True


def pixel_values(case: Case) -> Iterator[Finding]:
    """Mean and deviation in the wrong unit, or in the order of the other channels."""
    mean, std = list(case.config.MODEL.PIXEL_MEAN), list(case.config.MODEL.PIXEL_STD)
    if any(value <= 0 for value in std):
        yield _finding(
            "pixel-units",
            "error",
            "MODEL.PIXEL_STD",
            f"{std}: expected positive values",
            'MODEL.PIXEL_STD "[1.0, 1.0, 1.0]"',
        )
    elif max(mean) <= 1 or max(std) < 1:
        key, values = ("MODEL.PIXEL_MEAN", mean) if max(mean) <= 1 else ("MODEL.PIXEL_STD", std)
        wanted = as_argument([round(255 * value, 3) for value in values])
        yield _finding(
            "pixel-units", "error", key, f"{values} is of pixels in 0..1; Detectron2's are in 0..255", f"{key} {wanted}"
        )
    elif len(mean) == 3 and abs(mean[0] - mean[2]) > 10:
        # ImageNet's mean is higher in red than in blue, like that of nearly all photographs.
        order = "RGB" if mean[0] > mean[2] else "BGR"
        if order != case.config.INPUT.FORMAT:
            yield _finding(
                "pixel-order",
                "warning",
                "MODEL.PIXEL_MEAN",
                f"{mean} is in the order {order}, but INPUT.FORMAT is {case.config.INPUT.FORMAT}",
                f"MODEL.PIXEL_MEAN {as_argument(mean[::-1])}",
            )


def norm_of_weights(case: Case) -> Iterator[Finding]:
    """A norm that leaves the statistics of the weights behind."""
    if case.resnet_norm in ("GN", "LN", "") and case.weights and _sidecar_of(case.weights) is not None:
        yield _finding(
            "norm-of-weights",
            "error",
            "MODEL.RESNETS.NORM",
            f"{case.resnet_norm or 'none'}: the weights were trained with BatchNorm, whose statistics have no place here",
            f"MODEL.RESNETS.NORM {'SyncBN' if case.num_processes > 1 else 'BN'}",
        )


# --- rate and schedule ------------------------------------------------------------------------------------------------


def learning_rate(case: Case) -> Iterator[Finding]:
    """The rate against the batch."""
    solver = case.config.SOLVER
    if case.images < 1:
        return
    expected = linear_rate(case.config, case.images)
    ratio = solver.BASE_LR / expected
    clipped = bool(solver.CLIP_GRADIENTS.ENABLED)
    rule = f"{expected:g} for {case.images} images by the linear rule from the published {linear_rate(case.config, 16):g} for 16"
    if solver.BASE_LR <= 0:
        yield _finding(
            "learning-rate",
            "error",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} teaches nothing",
            f"SOLVER.BASE_LR {expected:g}",
        )
    elif ratio > RATE_ABOVE[clipped] * (1 + 1e-6):
        yield _finding(
            "learning-rate",
            "warning",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} is {ratio:.2g} times {rule}; it may diverge",
            f"SOLVER.BASE_LR {expected:g}, or --scale auto",
        )
    elif ratio < RATE_BELOW:
        yield _finding(
            "learning-rate",
            "note",
            "SOLVER.BASE_LR",
            f"{solver.BASE_LR:g} is {ratio:.2g} times {rule}: slow",
            f"SOLVER.BASE_LR {expected:g}",
        )


def warmup(case: Case) -> Iterator[Finding]:
    """How the rate begins."""
    solver = case.config.SOLVER
    iterations = solver.WARMUP_ITERS
    change = f"SOLVER.WARMUP_ITERS {max(1, solver.MAX_ITER // 10)}"
    if solver.MAX_ITER <= FEW_ITERATIONS:
        return
    if iterations >= solver.MAX_ITER:
        yield _finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations} of {solver.MAX_ITER} iterations: the rate never reaches BASE_LR",
            change,
        )
    elif solver.STEPS and iterations > solver.STEPS[0]:
        yield _finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations}: the rate falls at {solver.STEPS[0]}, before it has risen",
            change,
        )
    elif iterations <= 0 and solver.MAX_ITER > LONG_RUN // 10:
        yield _finding(
            "warmup",
            "warning",
            "SOLVER.WARMUP_ITERS",
            f"{iterations}: new layers meet the full rate at once, and often diverge",
            change,
        )


def rate_steps(case: Case) -> Iterator[Finding]:
    """Where the rate falls."""
    solver = case.config.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR" or solver.MAX_ITER <= FEW_ITERATIONS:
        return
    reached = [step for step in solver.STEPS if step < solver.MAX_ITER]
    change = f'SOLVER.STEPS "{falling_at(solver.MAX_ITER, STEPS_AT)}"'
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late:
        yield _finding(
            "steps-beyond-end",
            "warning",
            "SOLVER.STEPS",
            f"{', '.join(map(str, late))} lie beyond SOLVER.MAX_ITER {solver.MAX_ITER}",
            change,
        )
    elif not reached:
        yield _finding(
            "rate-never-falls",
            "warning",
            "SOLVER.STEPS",
            f"none is reached in {solver.MAX_ITER} iterations: the rate stays at {solver.BASE_LR:g}, and the last fall is worth several AP",
            change,
        )


def epochs(case: Case) -> Iterator[Finding]:
    """How often each image is seen."""
    if case.train is None or not case.train.num_labelled_images:
        return
    count = case.train.num_labelled_images
    seen = case.config.SOLVER.MAX_ITER * case.images / count
    rule = own_schedule(count, case.images)
    if case.config.SOLVER.MAX_ITER <= FEW_ITERATIONS or rule.epochs / OFF_RULE <= seen <= rule.epochs * OFF_RULE:
        return
    few = seen < rule.epochs
    severity: Severity = "warning" if (seen < FEW_EPOCHS if few else seen > MAX_EPOCHS) else "note"
    yield _finding(
        "epochs",
        severity,
        "SOLVER.MAX_ITER",
        f"{case.config.SOLVER.MAX_ITER} iterations of {case.images} are {seen:.3g} epochs of {count} labelled images, {'few' if few else 'many'}; "
        f"by the published ones ({EPOCHS}, up to {MAX_EPOCHS} for small sets) {rule.epochs:.3g}",
        f'SOLVER.MAX_ITER {rule.max_iter} SOLVER.STEPS "{rule.steps}" SOLVER.WARMUP_ITERS {rule.warmup}, or --scale auto',
    )


def clip_gradients(case: Case) -> Iterator[Finding]:
    """A bound that stops every step, or that means nothing."""
    clip = case.config.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_VALUE <= 0.01:
        yield _finding(
            "clip-gradients",
            "error" if clip.CLIP_VALUE <= 0 else "warning",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
            f"{clip.CLIP_VALUE:g} cuts every gradient ({clip.CLIP_TYPE})",
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm SOLVER.CLIP_GRADIENTS.CLIP_VALUE 10.0",
        )


# --- the machine ------------------------------------------------------------------------------------------------------


def batch_divisible(case: Case) -> Iterator[Finding]:
    """Every process needs the same number of images."""
    if case.images < 1 or case.images % case.num_processes:
        fitting = max(1, round(case.images / case.num_processes)) * case.num_processes
        yield _finding(
            "batch-divisible",
            "error",
            "SOLVER.IMS_PER_BATCH",
            f"{case.images} is no positive multiple of the number of processes, {case.num_processes}",
            f"SOLVER.IMS_PER_BATCH {fitting} SOLVER.BASE_LR {linear_rate(case.config, fitting):g}",
        )


def image_memory(case: Case) -> Iterator[Finding]:
    """A batch for eight GPUs on fewer, and a batch that does not fit."""
    if case.estimate is None:
        return
    needed = case.estimate.total(case.images_a_process)
    on_gpu = case.config.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available()
    fits = case.memory is None or needed <= USED_FOR_MEMORY * case.memory
    height, width = largest_training_image(case.config)
    basis = (
        f"{case.images_a_process} images of up to {width} x {height} px a process need about {needed / GIB:.1f} GiB (what the backward pass "
        "keeps, counted on shapes, with parameters and momentum)"
    )
    for_eight = case.num_processes < PUBLISHED_PROCESSES and case.images_a_process > 4 and needed > USUAL_GPU
    if for_eight and not (on_gpu and fits):
        yield _finding(
            "batch-for-eight-gpus",
            "warning",
            "SOLVER.IMS_PER_BATCH",
            f"{case.images} images and rate {case.config.SOLVER.BASE_LR:g} are the recipe for {PUBLISHED_PROCESSES} GPUs, here on "
            f"{case.num_processes} process{'es' * (case.num_processes > 1)}: {basis}",
            f"--scale auto, or by hand {_fewer_images(case)}",
        )
    elif not fits:
        assert case.memory is not None
        yield _finding(
            "memory",
            "warning",
            "SOLVER.IMS_PER_BATCH",
            f"{basis}; the device has {case.memory / GIB:.1f} GiB",
            f"--scale auto, or by hand {_fewer_images(case)}, or smaller INPUT.MIN_SIZE_TRAIN",
        )


def _fewer_images(case: Case) -> str:
    """Batch, rate and schedule for what fits, as they are typed."""
    solver = case.config.SOLVER
    memory = case.memory if case.memory is not None and case.config.MODEL.DEVICE.startswith("cuda") else USUAL_GPU
    batch = case.num_processes * images_a_process(case.config, case.images, case.num_processes, memory)
    factor = batch / case.images
    steps = tuple(round(step / factor) for step in solver.STEPS)
    return (
        f"SOLVER.IMS_PER_BATCH {batch} SOLVER.BASE_LR {solver.BASE_LR * factor:g} SOLVER.MAX_ITER {round(solver.MAX_ITER / factor)} "
        f'SOLVER.STEPS "{steps}" SOLVER.WARMUP_ITERS {round(solver.WARMUP_ITERS / factor)}'
    )


def mixed_precision(case: Case) -> Iterator[Finding]:
    """Half precision on a CPU, or unused on a GPU."""
    enabled, on_cpu = case.config.SOLVER.AMP.ENABLED, case.config.MODEL.DEVICE == "cpu"
    if enabled and on_cpu:
        yield _finding(
            "amp",
            "error",
            "SOLVER.AMP.ENABLED",
            "True needs a CUDA device; the run is on the CPU",
            "SOLVER.AMP.ENABLED False",
        )
    elif not enabled and not on_cpu and torch.cuda.is_available() and case.num_processes < PUBLISHED_PROCESSES:
        yield _finding(
            "amp",
            "note",
            "SOLVER.AMP.ENABLED",
            "False: half precision takes less time and memory on this device",
            "SOLVER.AMP.ENABLED True",
        )


def checkpoints(case: Case) -> Iterator[Finding]:
    """How much a kill costs, and how much the files take."""
    solver = case.config.SOLVER
    period, iterations = solver.CHECKPOINT_PERIOD, solver.MAX_ITER
    if iterations < LONG_RUN:
        return
    if period <= 0 or period >= iterations:
        yield _finding(
            "checkpoint-period",
            "warning",
            "SOLVER.CHECKPOINT_PERIOD",
            f"{period}: no checkpoint before the end of {iterations} iterations; a run that is killed begins again",
            f"SOLVER.CHECKPOINT_PERIOD {max(1, iterations // 10)}",
        )
    elif iterations / period > MANY_CHECKPOINTS:
        files = iterations // period
        space = _disk_free(Path(case.config.OUTPUT_DIR))
        size = case.estimate.fixed * 2 // 3 if case.estimate is not None else 0  # parameters and momentum
        yield _finding(
            "checkpoints-disk",
            "warning",
            "SOLVER.CHECKPOINT_PERIOD",
            f"{period}: {files} checkpoints, all kept, about {files * size / GIB:.0f} GiB"
            + (f" ({space / GIB:.0f} GiB are free)" if space is not None else ""),
            f"SOLVER.CHECKPOINT_PERIOD {max(1, iterations // 10)}",
        )


def _disk_free(folder: Path) -> int | None:
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return None


# --- data -------------------------------------------------------------------------------------------------------------


def classes(case: Case) -> Iterator[Finding]:
    """The number of outputs against the number of classes."""
    retina = case.config.MODEL.META_ARCHITECTURE == "RetinaNet"
    key = "MODEL.RETINANET.NUM_CLASSES" if retina else "MODEL.ROI_HEADS.NUM_CLASSES"
    found = config_value(case.config, key)
    if case.data is not None:
        names: Sequence[str] | None = case.data.class_names
        where = "the data"
    else:
        sets = [name for name in (*case.config.DATASETS.TRAIN, *case.config.DATASETS.TEST) if name in DatasetCatalog]
        names = MetadataCatalog.get(sets[0]).get("thing_classes") if sets else None
        where = sets[0] if sets else ""
    if names and len(names) != found:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        too_few = found < len(
            names
        )  # an object of class 80 in a detector of 20; outputs that no object uses are only a waste
        yield _finding(
            "classes",
            "error" if too_few or case.data is not None else "warning",
            key,
            f"{found}, but {where} {'have' if case.data is not None else 'has'} {len(names)} class{'es' * (len(names) > 1)}: {shown}",
            f"{key} {len(names)}",
        )


def anchors(case: Case) -> Iterator[Finding]:
    """Anchors that no box is near to, at the resolution of the detector."""
    sizes, strides = level_sizes(case.config), level_strides(case.config)
    key = "MODEL.ANCHOR_GENERATOR.SIZES"
    if not case.anchor_levels:
        yield _finding(
            "anchor-levels",
            "error",
            key,
            f"{len(sizes)} lists of sizes for {len(strides)} feature levels",
            "one list a level",
        )
        return
    if case.advice is None:
        return
    now, then = case.advice.now, case.advice.proposed
    outside = (
        f"{now.larger:.0%} of {now.num_boxes} boxes are larger than the largest anchor ({now.anchors[1]:g} px)"
        if now.larger >= now.smaller
        else f"{now.smaller:.0%} of {now.num_boxes} boxes are smaller than the smallest anchor ({now.anchors[0]:g} px)"
    )
    yield _finding(
        "anchors",
        "warning",
        key,
        f"{outside}; the median box has {now.size:.0f} px where the short side is {_side(case.config)} px; {now.below_foreground:.0%} overlap their "
        f"best anchor by less than the foreground threshold {now.threshold:g} (with those below {then.below_foreground:.0%}), {now.poor:.0%} by "
        f"less than 0.5 ({then.poor:.0%})",
        f"{key} {show_sizes(case.advice.sizes)}, or --scale auto",
    )


def _side(config: CfgNode) -> str:
    return str(config.INPUT.MIN_SIZE_TEST or "as in the file")


def image_size(case: Case) -> Iterator[Finding]:
    """Objects too small to be seen, images enlarged without need, training and test at different sizes."""
    inputs = case.config.INPUT
    train_sizes, test_size = [size for size in inputs.MIN_SIZE_TRAIN if size > 0], inputs.MIN_SIZE_TEST
    if train_sizes and test_size > 0 and not min(train_sizes) / 2 <= test_size <= max(train_sizes) * 2:
        yield _finding(
            "resolution-mismatch",
            "warning",
            "INPUT.MIN_SIZE_TEST",
            f"{test_size} px, trained at {min(train_sizes)} to {max(train_sizes)} px: objects have another size than they were learnt at",
            f"INPUT.MIN_SIZE_TEST {max(train_sizes)}",
        )
    for short, limit, kind in (
        (max(train_sizes, default=0), inputs.MAX_SIZE_TRAIN, "TRAIN"),
        (test_size, inputs.MAX_SIZE_TEST, "TEST"),
    ):
        if 0 < limit < short:
            yield _finding(
                "max-size",
                "warning",
                f"INPUT.MAX_SIZE_{kind}",
                f"{limit} is below INPUT.MIN_SIZE_{kind} {short}, which no image reaches",
                f"INPUT.MAX_SIZE_{kind} {short * 5 // 3}",
            )
    if case.train is None:
        return
    records = case.train.records
    boxes = resized_boxes(records, case.config)
    tiny = float((boxes.min(axis=1) < TINY).mean()) if len(boxes) else 0.0
    if tiny >= MANY_TINY:
        needed = (
            int(np.ceil(test_size * TINY / np.quantile(boxes.min(axis=1), MANY_TINY / 2) / 32) * 32)
            if test_size
            else 800
        )
        yield _finding(
            "small-boxes",
            "warning",
            "INPUT.MIN_SIZE_TEST",
            f"{tiny:.0%} of the boxes are narrower than {TINY} px where the short side is {_side(case.config)} px; the finest feature map has a cell "
            "every 4 px",
            f'INPUT.MIN_SIZE_TEST {needed} INPUT.MIN_SIZE_TRAIN "({needed},)" with INPUT.MAX_SIZE_TEST and MAX_SIZE_TRAIN {needed * 5 // 3}',
        )
    factors = [resize_factor(r["height"], r["width"], short=test_size, limit=inputs.MAX_SIZE_TEST) for r in records]
    factor = float(np.median(factors)) if factors else 1.0
    if factor > UPSCALED:
        side = int(np.median([min(r["height"], r["width"]) for r in records]))
        yield _finding(
            "enlarged-images",
            "note",
            "INPUT.MIN_SIZE_TEST",
            f"{test_size}: half of the images are enlarged {factor:.1f} times or more (median short side {side} px), which takes {factor**2:.0f} "
            "times the time and memory and adds no detail",
            f'INPUT.MIN_SIZE_TEST {2 * side} INPUT.MIN_SIZE_TRAIN "({2 * side},)", with the anchors that this tool then proposes',
        )


def masks(case: Case) -> Iterator[Finding]:
    """Masks asked for where there are none, and masks left unused."""
    data = case.train or case.test
    if data is None:
        return
    if case.config.MODEL.MASK_ON and data.masks == "none":
        yield _finding(
            "masks-missing", "error", "MODEL.MASK_ON", "True, but the data have boxes only", "MODEL.MASK_ON False"
        )
    elif case.config.MODEL.MASK_ON and data.masks == "some":
        yield _finding(
            "masks-missing", "error", "MODEL.MASK_ON", "True, but some objects have no mask", "MODEL.MASK_ON False"
        )
    elif (
        not case.config.MODEL.MASK_ON
        and data.masks == "all"
        and case.config.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    ):
        yield _finding(
            "masks-unused",
            "note",
            "MODEL.MASK_ON",
            "False: the data have masks, which are not trained on",
            "MODEL.MASK_ON True",
        )
    if case.config.MODEL.MASK_ON and data.bitmask and case.config.INPUT.MASK_FORMAT == "polygon":
        yield _finding(
            "mask-format",
            "error",
            "INPUT.MASK_FORMAT",
            "polygon, but some masks are run-length coded",
            "INPUT.MASK_FORMAT bitmask",
        )


def test_data(case: Case) -> Iterator[Finding]:
    """Whether there is anything to measure on, and enough of it."""
    key = "--test-data"
    if case.data is None:
        if case.config.DATASETS.TRAIN and not case.config.DATASETS.TEST:
            yield _finding(
                "no-test-data", "warning", "DATASETS.TEST", "empty: AP is not measured", "DATASETS.TEST \"('NAME',)\""
            )
        elif set(case.config.DATASETS.TEST) & set(case.config.DATASETS.TRAIN):
            yield _finding(
                "train-is-test",
                "warning",
                "DATASETS.TEST",
                "the detector is measured on what it is trained on",
                "another data set",
            )
        return
    if case.test is None:
        yield _finding("no-test-data", "warning", key, "no test data: AP is not measured", "--test-data SPEC")
        return
    prints = {role: record.fingerprint for role, record in case.data.data_records.items()}
    if case.train is not None and prints.get("train") == prints.get("test"):
        yield _finding(
            "train-is-test",
            "warning",
            key,
            "the test data are the training data: AP says what was learnt by heart",
            "--test-data SPEC",
        )
    if not case.test.num_objects:
        yield _finding(
            "no-test-data", "error", key, f"no object in {len(case.test.records)} test images", "--test-data SPEC"
        )
    elif len(case.test.records) < FEW_TEST_IMAGES:
        yield _finding(
            "few-test-images",
            "note",
            key,
            f"{len(case.test.records)} test images with {case.test.num_objects} objects: AP has a wide interval, whatever the seed",
            "",
        )


def evaluation_cost(case: Case) -> Iterator[Finding]:
    """Evaluations that take longer than the training."""
    solver, test = case.config.SOLVER, case.config.TEST
    if test.EVAL_PERIOD <= 0 or case.test is None or solver.MAX_ITER <= FEW_ITERATIONS:
        return
    times = solver.MAX_ITER // test.EVAL_PERIOD
    precise = test.PRECISE_BN.NUM_ITER * case.images if test.PRECISE_BN.ENABLED and case.trains_batchnorm else 0
    evaluated = times * (len(case.test.records) + precise)
    if evaluated > solver.MAX_ITER * case.images:
        parts = f"{len(case.test.records)} test images" + (f" and {precise} for TEST.PRECISE_BN" if precise else "")
        yield _finding(
            "evaluation-cost",
            "warning",
            "TEST.EVAL_PERIOD",
            f"{test.EVAL_PERIOD}: {times} evaluations of {parts}, {evaluated} images in all, of {solver.MAX_ITER * case.images} trained on",
            f"TEST.EVAL_PERIOD {max(1, solver.MAX_ITER // 4)}",
        )


def unlabelled_images(case: Case) -> Iterator[Finding]:
    """Images without an object, which training leaves out."""
    if case.train is None or not case.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return
    empty = len(case.train.records) - case.train.num_labelled_images
    if empty > MANY_UNLABELLED * len(case.train.records):
        yield _finding(
            "empty-images",
            "note",
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
            f"True: {empty} of {len(case.train.records)} training images have no object and are left out; as background they teach what is none",
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS False",
        )


def detections(case: Case) -> Iterator[Finding]:
    """What limits the recall when it is measured."""
    model = case.config.MODEL
    retina = model.META_ARCHITECTURE == "RetinaNet"
    key, threshold = (
        ("MODEL.RETINANET.SCORE_THRESH_TEST", model.RETINANET.SCORE_THRESH_TEST)
        if retina
        else ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", model.ROI_HEADS.SCORE_THRESH_TEST)
    )
    if threshold > LOW_SCORE:
        yield _finding(
            "score-threshold",
            "warning",
            key,
            f"{threshold:g}: AP counts detections of every score; the cut takes the end of the precision-recall curve away",
            f"{key} 0.05",
        )
    if case.test is None:
        return
    most = max((_num_objects(record) for record in case.test.records), default=0)
    limit = case.config.TEST.DETECTIONS_PER_IMAGE
    if most > limit:
        crowded = sum(_num_objects(record) > limit for record in case.test.records)
        yield _finding(
            "detections-per-image",
            "warning",
            "TEST.DETECTIONS_PER_IMAGE",
            f"{limit}: {crowded} test images hold more objects than that, up to {most}, which cannot all be found"
            + "; COCO's own AP counts 100 an image",
            f"TEST.DETECTIONS_PER_IMAGE {most}",
        )


def _num_objects(record: Mapping[str, Any]) -> int:
    return sum(not thing.get("iscrowd", 0) for thing in record["annotations"])


def flipped_classes(case: Case) -> Iterator[Finding]:
    """Classes that a mirror image exchanges."""
    if case.data is None or case.config.INPUT.RANDOM_FLIP != "horizontal":
        return
    sided = [name for name in case.data.class_names if SIDES.search(name.replace("_", " "))]
    sides = Counter(match.lower() for name in sided for match in SIDES.findall(name.replace("_", " ")))
    if len(sides) == 2:
        yield _finding(
            "flipped-classes",
            "warning",
            "INPUT.RANDOM_FLIP",
            f"horizontal: half of the images are mirrored, and {', '.join(sided[:4])} keep their names",
            "INPUT.RANDOM_FLIP none",
        )


def ignored_keys(case: Case) -> Iterator[Finding]:
    """Keys that nothing here reads."""
    if case.config.TEST.AUG.ENABLED:
        yield _finding(
            "ignored-key",
            "warning",
            "TEST.AUG.ENABLED",
            "True: test-time augmentation is not run, the figures are without it",
            "TEST.AUG.ENABLED False",
        )
    if case.config.TEST.EXPECTED_RESULTS:
        yield _finding("ignored-key", "note", "TEST.EXPECTED_RESULTS", "is not compared with anything", "leave it out")


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    frozen_stages,
    frozen_batchnorm,
    extra_norm,
    syncbn_one_process,
    batchnorm_few_images,
    precise_batchnorm,
    input_contract,
    pixel_values,
    norm_of_weights,
    learning_rate,
    warmup,
    rate_steps,
    epochs,
    clip_gradients,
    batch_divisible,
    image_memory,
    mixed_precision,
    checkpoints,
    classes,
    anchors,
    image_size,
    masks,
    test_data,
    evaluation_cost,
    unlabelled_images,
    detections,
    flipped_classes,
    ignored_keys,
)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raises ConfigError with every error among them and the line to change."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError("\n  ".join(["the configuration would fail, or teach nothing:", *map(sentence, errors)]))


def sentence(finding: Finding) -> str:
    """A finding in one line, with what to pass."""
    change = f"; pass {finding.change}" if finding.change else ""
    return f"{finding.where}: {finding.message}{change} [{finding.id}]"
