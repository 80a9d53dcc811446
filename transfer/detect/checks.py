"""The two guards before step one: the configuration agrees with the weights' sidecar, and every backbone tensor is loaded.

In: a Detectron2 configuration, the weight file it names, the built model. Out: nothing, or a ConfigError with the lines to
change, or a CheckpointError that names the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.same_run import flat
from transfer.conversion.fitting import listing
from transfer.data.records import is_number
from transfer.detect.checkpointer import read_for_detectron2

# What the weights were trained to be fed, and the shape of the network they are for. Compared with the sidecar's.
COMPARED_KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
)
STRIDE_KEY = "MODEL.RESNETS.STRIDE_IN_1X1"
BASIC_BLOCK_DEPTHS = (18, 34)  # no 1x1 convolution whose stride could matter
TOLERANCE = 1e-4  # relative, of mean and std: 255 * 0.224 and 57.120 are one number
RUNNING = (".running_mean", ".running_var")
UNTRACKED = ".num_batches_tracked"  # a counter that no forward pass reads


def check_settings(config: CfgNode, settings: Mapping[str, Any], *, where: str) -> None:
    """Compare the configuration with the settings {KEY: VALUE} that weights were trained with. where: their file.

    Raises ConfigError listing each contradicting line and what it must be; CheckpointError if the settings lack a key.
    """
    missing = [key for key in COMPARED_KEYS if key not in settings]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}; convert the weights again")
    wrong = contradictions(config, settings)
    if wrong:
        raise ConfigError("\n".join([f"the configuration contradicts {where}:", *wrong.values()]))


def contradictions(config: CfgNode, settings: Mapping[str, Any]) -> dict[str, str]:
    """Key -> one line on how the configuration differs from `settings` there, and what to pass; of all that differ."""
    wrong = {}
    for key, wanted in settings.items():
        if key == STRIDE_KEY and settings.get("MODEL.RESNETS.DEPTH") in BASIC_BLOCK_DEPTHS:
            continue
        found = config_value(config, key)
        if not same_value(found, wanted):
            wrong[key] = f"  {key} is {found!r}, must be {wanted!r}; pass: {key} {as_argument(wanted)}"
    return wrong


def flat_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a dumped configuration what COMPARED_KEYS name, as {KEY: VALUE}."""
    found = flat(values)
    return {key: found[key] for key in COMPARED_KEYS if found.get(key) is not None}


def config_value(config: CfgNode, key: str) -> Any:
    """The value at a dotted key. Raises ConfigError for a key that Detectron2 does not have."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(f"Detectron2 has no configuration key {key}")
        value = value[part]
    return value


def set_value(config: CfgNode, key: str, value: Any) -> None:
    """Write the value at a dotted key of a configuration that is being made; a tuple stays one."""
    *parents, last = key.split(".")
    node = config
    for part in parents:
        node = node[part]
    node[last] = value


def same_value(found: Any, wanted: Any) -> bool:
    """Whether two values of a configuration are one; numbers within TOLERANCE, lists and tuples alike."""
    if isinstance(wanted, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(wanted) and all(map(same_value, found, wanted))
    if is_number(wanted) and is_number(found):
        return math.isclose(found, wanted, rel_tol=TOLERANCE)
    return type(found) is type(wanted) and found == wanted


def as_argument(value: Any) -> str:
    """A value as a word of the command line."""
    return f'"{[round(number, 4) for number in value]}"' if isinstance(value, (list, tuple)) else str(value)


def read_tensors(weights: str) -> dict[str, Tensor]:
    """The tensors of a weight file under the names that it uses (Caffe2's already translated to Detectron2's).

    Nothing in the file can run, whatever it is. Raises CheckpointError.
    """
    try:
        content = read_for_detectron2(Path(PathManager.get_local_path(weights)))
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {weights}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"cannot read the weights {weights}: truncated or not a weight file ({error})") from None
    model = content["model"]
    if not isinstance(model, dict) or not model:
        raise CheckpointError(f"{weights} holds no tensors; expected {{'model': {{name: tensor}}}}")
    if content.get("__author__") == "Caffe2":
        model, _ = convert_c2_detectron_names(model)
    return {
        name.removeprefix("module."): torch.as_tensor(value)
        for name, value in model.items()
        if isinstance(value, (Tensor, np.ndarray))
    }


def backbone_names(model: nn.Module) -> dict[str, str]:
    """Name in the model -> name in a weight file, for every backbone tensor: `stem.*`, `res2.*` ... `res5.*`.

    FPN keeps the ResNet in `backbone.bottom_up`; C4 has stem..res4 in `backbone` and res5's blocks in `roi_heads.res5`. The
    extra norm after res5 belongs to the head, not to the backbone.
    """
    pyramid = any(name.startswith("backbone.bottom_up.") for name in model.state_dict())
    prefix = "backbone.bottom_up." if pyramid else "backbone."
    names = {}
    for name in model.state_dict():
        if name.endswith(UNTRACKED):
            continue
        if name.startswith(prefix):
            names[name] = name[len(prefix) :]
        elif name.startswith("roi_heads.res5.") and not name.startswith("roi_heads.res5.norm."):
            names[name] = name[len("roi_heads.") :]
    return names


def same_values(source: Tensor, here: Tensor) -> bool:
    """Was `source` loaded into `here`? (A NaN equals nothing: weights that hold one are refused.)"""
    return source.shape == here.shape and torch.equal(source.to(here.dtype), here.cpu())


def same_shape(source: Tensor, here: Tensor) -> bool:
    """Can `source` be loaded into `here`? Enough for a model on the meta device, which holds no values."""
    return source.shape == here.shape


def check_backbone_loaded(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    agree: Callable[[Tensor, Tensor], bool] = same_values,
    affine_allowed: bool = False,
) -> str:
    """Assert that every backbone tensor of `model` agrees with the file's. Returns one sentence on what was checked.

    affine_allowed: a file without any running statistics (MSRA's: its BatchNorm is an affine map) may leave those at their
    start; then the sentence says so. Raises CheckpointError naming what is missing or differs.
    """
    names = backbone_names(model)
    remark = ""
    if affine_allowed and not any(name.endswith(RUNNING) for name in tensors):
        names = {name: short for name, short in names.items() if not name.endswith(RUNNING)}
        remark = "; the file holds no running statistics: those start at mean 0, variance 1"
    candidates = {name: (short, name) for name, short in names.items()}
    _check_all(model, candidates, tensors, agree, where=where, what="backbone")
    return f"backbone: {len(names)} of {len(names)} tensors loaded from {where}{remark}"


def check_model_loaded(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    agree: Callable[[Tensor, Tensor], bool] = same_values,
) -> str:
    """Assert that every tensor of the whole detector agrees with the file's. Raises CheckpointError."""
    names = {
        name: (name,)
        for name in model.state_dict()
        if not name.endswith(UNTRACKED) and name not in ("pixel_mean", "pixel_std")  # these come from the configuration
    }
    _check_all(model, names, tensors, agree, where=where, what="detector")
    return f"detector: {len(names)} of {len(names)} tensors loaded from {where}"


def _check_all(
    model: nn.Module,
    names: Mapping[str, Sequence[str]],
    tensors: Mapping[str, Tensor],
    agree: Callable[[Tensor, Tensor], bool],
    *,
    where: str,
    what: str,
) -> None:
    """names: name in the model -> names that it may have in the file, the first one found counts."""
    state = model.state_dict()
    missing, different = [], []
    for name, candidates in names.items():
        source = next((tensors[candidate] for candidate in candidates if candidate in tensors), None)
        if source is None:
            missing.append(name)
        elif not agree(source, state[name].detach()):
            different.append(f"{name} {tuple(source.shape)} -> {tuple(state[name].shape)}")
    if missing or different or not names:
        total = len(names)
        raise CheckpointError(
            f"{what} not fully loaded from {where}: {total - len(missing) - len(different)} of {total} tensors are"
            f"{listing('missing in the file', missing)}{listing('of another shape or value', different)}. Does the "
            "configuration build the network that the file was made for (MODEL.RESNETS.DEPTH, MODEL.MASK_ON, classes)?"
        )
