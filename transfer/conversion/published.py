"""Published weights that carry nothing of ours beside them: what is known of them by their address, or by their bytes.

In: MODEL.WEIGHTS as it is given, or the sha256 of a file. Out: architecture and input contract, or that they were trained with
labels; None for what nothing here knows.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from pretrain.base.contract import InputContract
from transfer.conversion.layouts import FAIR_BGR, FAIR_IN5K_BGR, IMAGENET_RGB, MSRA_BGR

CATALOG_SCHEMES = ("detectron2://", "catalog://")
CATALOG_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"  # what detectron2:// stands for
SUPERVISED = "supervised"
IMAGENET_CATALOG = "ImageNetPretrained/"  # Detectron2's classifiers, all of them trained with ImageNet's labels


@dataclass(frozen=True)
class CatalogEntry:
    """arch, contract: of the network. source: where that is written. detector: "FPN" or "C4" of a whole detector, else a backbone."""

    arch: str
    contract: InputContract
    source: str
    detector: Literal["", "FPN", "C4"] = ""


_MSRA = "detectron2/checkpoint/catalog.py and config/defaults.py"
_MSRA_50 = CatalogEntry("resnet50", MSRA_BGR, _MSRA)
_MSRA_101 = CatalogEntry("resnet101", MSRA_BGR, _MSRA)
# Mask R-CNN trained on COCO, 3x: name in the model zoo, run and file there, network, input, kind.
_COCO_DETECTORS: tuple[tuple[str, str, str, InputContract, Literal["FPN", "C4"]], ...] = (
    ("R_50_FPN", "137849600/model_final_f10217.pkl", "resnet50", MSRA_BGR, "FPN"),
    ("R_101_FPN", "138205316/model_final_a3ec72.pkl", "resnet101", MSRA_BGR, "FPN"),
    ("X_101_32x8d_FPN", "139653917/model_final_2d9806.pkl", "resnext101_32x8d", FAIR_BGR, "FPN"),
    ("R_50_C4", "137849525/model_final_4ce675.pkl", "resnet50", MSRA_BGR, "C4"),
    ("R_101_C4", "138363239/model_final_a2914c.pkl", "resnet101", MSRA_BGR, "C4"),
)
# catalog://ImageNetPretrained/FAIR/X-101-32x8d is left out: catalog.py says that its deviation is 1, the model zoo's files not.
CATALOG: dict[str, CatalogEntry] = {
    "detectron2://ImageNetPretrained/MSRA/R-50.pkl": _MSRA_50,
    "detectron2://ImageNetPretrained/MSRA/R-101.pkl": _MSRA_101,
    "catalog://ImageNetPretrained/MSRA/R-50": _MSRA_50,
    "catalog://ImageNetPretrained/MSRA/R-101": _MSRA_101,
    "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl": CatalogEntry(
        "resnext101_32x8d", FAIR_BGR, "detectron2 configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"
    ),
    "detectron2://ImageNetPretrained/torchvision/R-50.pkl": CatalogEntry(
        "resnet50", IMAGENET_RGB, "detectron2 tools/convert-torchvision-to-d2.py"
    ),
    # A deviation of 1: catalog.py says it of all that catalog:// stands for, and the model zoo's own file for these weights sets none.
    "catalog://ImageNetPretrained/FAIR/X-152-32x8d-IN5k": CatalogEntry(
        "resnext152_32x8d",
        FAIR_IN5K_BGR,
        "detectron2 checkpoint/catalog.py and configs/Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv.yaml",
    ),
    **{
        f"detectron2://COCO-InstanceSegmentation/mask_rcnn_{name}_3x/{run}": CatalogEntry(
            arch, contract, f"detectron2 configs/COCO-InstanceSegmentation/mask_rcnn_{name}_3x.yaml", detector
        )
        for name, run, arch, contract, detector in _COCO_DETECTORS
    },
}
# torchvision names a file after the first digits of its sha256. The installed one knows its own; these are the files of ResNet-18
# to 152 that it replaced.
OLDER_TORCHVISION = frozenset({"5c106cde", "333f7ec4", "19c8e357", "5d3b4d8f", "b121ed2d"})


def catalog_entry(weights: str) -> CatalogEntry | None:
    """What is known of an address in Detectron2's catalog."""
    return CATALOG.get(_short(weights))


def is_supervised_address(weights: str) -> bool:
    """Whether an address is one of Detectron2's ImageNet classifiers."""
    return _short(weights).startswith(tuple(f"{scheme}{IMAGENET_CATALOG}" for scheme in CATALOG_SCHEMES))


def _short(weights: str) -> str:
    return re.sub(rf"^{re.escape(CATALOG_ADDRESS)}", CATALOG_SCHEMES[0], weights)


def is_supervised_file(sha256: str) -> bool:
    """Whether a file is one of torchvision's own ResNets, by the digits that torchvision itself checks a download with.

    Its names alone say nothing: DINO's, VICReg's and any other flat file have the same.
    """
    return sha256[:8] in OLDER_TORCHVISION | _torchvision_digits()


@functools.cache
def _torchvision_digits() -> frozenset[str]:
    from torchvision.models import resnet

    addresses = [
        entry.url
        for name in dir(resnet)
        if name.endswith("_Weights")
        for entry in getattr(resnet, name).__members__.values()
    ]
    found = (re.search(r"-([0-9a-f]{8})\.pth$", address) for address in addresses)
    return frozenset(match[1] for match in found if match)
