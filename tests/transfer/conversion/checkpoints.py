"""Checkpoints of every layout, made from one encoder: what the conversion's tests read.

In: the states of two encoders: the one that the layout takes by default, and its other copy. Out: dictionaries as the original
training scripts save them (docs/specification.md 6.2), wrappers included. Names are made here by string rules, not by transfer/conversion/names.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.transfer.conversion.checkpoints_libraries import (
    caffe2,
    caffe2_with_statistics,
    children,
    densecl,
    detectron2_names,
    flat,
    huggingface,
    huggingface_names,
    lightly,
    lightly_dino,
    lightly_moco,
    lightly_sequential,
    lightly_sequential_momentum,
    lightning,
    mmselfsup,
    mmselfsup_byol,
    mmselfsup_extracted,
    mmselfsup_moco,
    moco_lincls,
    sequential,
    solo_learn,
    solo_learn_momentum,
    stable_pretraining,
    torchvision_model,
    vissl,
    vissl_linear,
)
from tests.transfer.conversion.checkpoints_methods import (
    State,
    barlow_twins,
    byol_deepmind,
    byol_lucidrains,
    deepcluster_v2,
    dino,
    encoder_state,
    haiku,
    head,
    moco,
    moco_v1,
    moco_v2,
    moco_v3,
    normed_head,
    ours,
    pixpro,
    prefixed,
    pycontrast,
    pycontrast_bank,
    pycontrast_cmc,
    pycontrast_jigsaw,
    pycontrast_pirl,
    simclr_port,
    simclr_spijkervet,
    simclr_sthalles,
    simsiam,
    swav,
    swav_released,
    vicreg,
    with_jigsaw,
)

Maker = Callable[[State, State], dict[str, Any]]

# layout -> makers of a file of that layout, as its own code saves it.
MAKERS: dict[str, tuple[Maker, ...]] = {
    "infomin-transfer": (ours,),
    "moco": (moco_v1, moco_v2),
    "moco-v3": (moco_v3,),
    "simsiam": (simsiam,),
    "pycontrast": (pycontrast_bank, pycontrast, pycontrast_pirl, pycontrast_jigsaw),
    "pixpro": (pixpro,),
    "swav": (swav, swav_released, deepcluster_v2),
    "barlow-twins": (barlow_twins,),
    "vicreg": (vicreg,),
    "dino": (dino,),
    "byol-deepmind": (byol_deepmind,),
    "byol-lucidrains": (byol_lucidrains,),
    "simclr-port": (simclr_port,),
    "simclr-spijkervet": (simclr_spijkervet,),
    "simclr-sthalles": (simclr_sthalles,),
    "vissl": (vissl,),
    "vissl-linear": (vissl_linear,),
    "mmselfsup": (mmselfsup, mmselfsup_moco, mmselfsup_byol),
    "openselfsup": (densecl,),
    "mmselfsup-extracted": (mmselfsup_extracted,),
    "solo-learn": (solo_learn, solo_learn_momentum),
    "stable-pretraining": (stable_pretraining,),
    "lightly": (lightly, lightly_moco, lightly_dino),
    "lightly-sequential": (lightly_sequential, lightly_sequential_momentum),
    "torchvision": (torchvision_model, flat, moco_lincls),
    "sequential": (sequential,),
    "huggingface": (huggingface,),
    "caffe2": (caffe2, caffe2_with_statistics),
    "detectron2-converted": (detectron2_names,),
}
PICKLES = ("byol-deepmind", "caffe2", "detectron2-converted")  # written as pickles of arrays
# The query encoder's tensors on the default branch, the other's on every further one.
TWO_BRANCHES = (
    ours, moco_v1, moco_v2, moco_v3, pycontrast, pycontrast_jigsaw, pixpro, dino, byol_deepmind, byol_lucidrains,
    mmselfsup_moco, mmselfsup_byol, densecl, solo_learn_momentum, lightly_moco, lightly_dino, lightly_sequential_momentum,
    stable_pretraining,
)  # fmt: skip


def save(content: dict[str, Any], folder: Path, *, layout: str) -> Path:
    """Write `content` as its own code does: torch's format, or a pickle of arrays. The name says nothing."""
    path = folder / ("weights.pkl" if layout in PICKLES else "weights.pth")
    if layout in PICKLES:
        path.write_bytes(pickle.dumps(arrays(content), protocol=2))
    else:
        torch.save(content, path)
    return path


def deep_copy(content: dict[str, Any]) -> dict[str, Any]:
    """The same tensors in dictionaries of their own."""
    return {key: deep_copy(value) if isinstance(value, dict) else value for key, value in content.items()}


def arrays(value: Any) -> Any:
    """Tensors as numpy arrays, all the way down."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return {key: arrays(entry) for key, entry in value.items()} if isinstance(value, dict) else value


__all__ = [  # what the tests take from here, wherever it is written
    "MAKERS",
    "PICKLES",
    "TWO_BRANCHES",
    "Maker",
    "State",
    "arrays",
    "barlow_twins",
    "byol_deepmind",
    "byol_lucidrains",
    "caffe2",
    "caffe2_with_statistics",
    "children",
    "deep_copy",
    "deepcluster_v2",
    "densecl",
    "detectron2_names",
    "dino",
    "encoder_state",
    "flat",
    "haiku",
    "head",
    "huggingface",
    "huggingface_names",
    "lightly",
    "lightly_dino",
    "lightly_moco",
    "lightly_sequential",
    "lightly_sequential_momentum",
    "lightning",
    "mmselfsup",
    "mmselfsup_byol",
    "mmselfsup_extracted",
    "mmselfsup_moco",
    "moco",
    "moco_lincls",
    "moco_v1",
    "moco_v2",
    "moco_v3",
    "normed_head",
    "ours",
    "pixpro",
    "prefixed",
    "pycontrast",
    "pycontrast_bank",
    "pycontrast_cmc",
    "pycontrast_jigsaw",
    "pycontrast_pirl",
    "save",
    "sequential",
    "simclr_port",
    "simclr_spijkervet",
    "simclr_sthalles",
    "simsiam",
    "solo_learn",
    "solo_learn_momentum",
    "stable_pretraining",
    "swav",
    "swav_released",
    "torchvision_model",
    "vicreg",
    "vissl",
    "vissl_linear",
    "with_jigsaw",
]
