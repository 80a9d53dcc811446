"""Checks of the backbone: what is frozen, its norms, and the input that its weights want. See doctor.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from pretrain.base.errors import UserError
from transfer.conversion.published import catalog_entry
from transfer.conversion.sidecar import detectron2_settings, sidecar_path
from transfer.data.findings import Finding, Severity
from transfer.detect.checks import as_argument, config_value, contradictions
from transfer.detect.doctor_case import LAST_STAGE, Case, finding, sidecar_of

OF_ONE_PROCESS = ("BN",)  # statistics of the images of one process
PROBE = 4  # FREEZE_AT of a protocol that measures fixed features: stem to res4 (ssl-transfer), or all (a frozen probe)
FEW_FOR_BN = 4  # images. ResNet-50's error on ImageNet by images a GPU: 32: 23.6, 8: 24.8, 4: 27.3, 2: 34.7 (Wu & He, 2018, table 2)
COSTLY_PRECISE_BN = 0.1  # of the iterations


def frozen_stages(case: Case) -> Iterator[Finding]:
    """Stages that are not trained, of weights that are no classifier's."""
    stages = case.config.MODEL.BACKBONE.FREEZE_AT
    if stages <= 0 or case.trained == "with labels":
        return
    where, change = "MODEL.BACKBONE.FREEZE_AT", "MODEL.BACKBONE.FREEZE_AT 0"
    if stages >= (LAST_STAGE if case.trained == "random" else PROBE):
        yield finding(
            "frozen-stages",
            "note",
            where,
            f"{stages}: the backbone stays as it is, as a frozen protocol asks; no figure to put beside those of fine-tuning",
            "",
        )
    elif case.trained == "random":
        yield finding(
            "frozen-stages",
            "error",
            where,
            f"{stages}: the first {stages} stages stay random; expected 0 for random weights",
            change,
        )
    else:
        yield finding(
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
    yield finding("frozen-batchnorm", severity, "MODEL.RESNETS.NORM", message, f"MODEL.RESNETS.NORM {norm}")


def extra_norm(case: Case) -> Iterator[Finding]:
    """The norm after res5 of a C4 detector, which unsupervised features need."""
    if case.config.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        return  # a one-stage detector has no region heads, whatever their key says
    if case.config.MODEL.ROI_HEADS.NAME == "Res5ROIHeads" and case.trained != "with labels" and case.trains_batchnorm:
        yield finding(
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
    yield finding(
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
    yield finding("batchnorm-few-images", "warning", keys[0], f"{words}; expected {FEW_FOR_BN} or more", change)


def precise_batchnorm(case: Case) -> Iterator[Finding]:
    """The statistics that the evaluation uses."""
    precise, iterations = case.config.TEST.PRECISE_BN, case.config.SOLVER.MAX_ITER
    if not case.trains_batchnorm:
        return
    if not precise.ENABLED:
        costly = COSTLY_PRECISE_BN * iterations < precise.NUM_ITER
        yield finding(
            "precise-bn-off",
            "note" if costly else "warning",
            "TEST.PRECISE_BN.ENABLED",
            "BatchNorm is trained and evaluated with its running average over the last few batches; the published recipes measure the "
            f"statistics anew over {precise.NUM_ITER} batches before each evaluation",
            "TEST.PRECISE_BN.ENABLED True",
        )
    elif iterations < precise.NUM_ITER:
        yield finding(
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
                (sidecar_of(case.weights) or {}).get("detectron2", {}),
                str(sidecar_path(Path(case.weights))),
            )
    if case.trained == "random" and case.init is not None and case.init.origin == "random":
        return  # random weights expect nothing; the keys keep a comparison fair
    for key, line in contradictions(case.config, {k: v for k, v in settings.items() if _has(case.config, k)}).items():
        found, _, _ = line.strip().partition("; pass: ")
        yield finding("input-contract", "error", key, f"{found}, says {source}", f"{key} {as_argument(settings[key])}")


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
        yield finding(
            "pixel-units",
            "error",
            "MODEL.PIXEL_STD",
            f"{std}: expected positive values",
            'MODEL.PIXEL_STD "[1.0, 1.0, 1.0]"',
        )
    elif max(mean) <= 1 or max(std) < 1:
        key, values = ("MODEL.PIXEL_MEAN", mean) if max(mean) <= 1 else ("MODEL.PIXEL_STD", std)
        wanted = as_argument([round(255 * value, 3) for value in values])
        yield finding(
            "pixel-units", "error", key, f"{values} is of pixels in 0..1; Detectron2's are in 0..255", f"{key} {wanted}"
        )
    elif len(mean) == 3 and abs(mean[0] - mean[2]) > 10:
        # ImageNet's mean is higher in red than in blue, like that of nearly all photographs.
        order = "RGB" if mean[0] > mean[2] else "BGR"
        if order != case.config.INPUT.FORMAT:
            yield finding(
                "pixel-order",
                "warning",
                "MODEL.PIXEL_MEAN",
                f"{mean} is in the order {order}, but INPUT.FORMAT is {case.config.INPUT.FORMAT}",
                f"MODEL.PIXEL_MEAN {as_argument(mean[::-1])}",
            )


def norm_of_weights(case: Case) -> Iterator[Finding]:
    """A norm that leaves the statistics of the weights behind."""
    if case.resnet_norm in ("GN", "LN", "") and case.weights and sidecar_of(case.weights) is not None:
        yield finding(
            "norm-of-weights",
            "error",
            "MODEL.RESNETS.NORM",
            f"{case.resnet_norm or 'none'}: the weights were trained with BatchNorm, whose statistics have no place here",
            f"MODEL.RESNETS.NORM {'SyncBN' if case.num_processes > 1 else 'BN'}",
        )
