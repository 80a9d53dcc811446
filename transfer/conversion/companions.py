"""What JSON files beside the weights say about the input: Hugging Face's preprocessor_config.json, timm's config.json.

In: the path of a weight file. Out: (the input contract, a note), or None where there is no such file.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError

HUGGING_FACE_FILES = ("preprocessor_config.json", "config.json")
TIMM_FILE = "config.json"
# Networks of timm with the plain stem, blocks and shortcuts; resnetblur50 or resnetaa50 have the same tensors, not these.
TIMM_PLAIN = re.compile(
    r"(tv_|gluon_|ssl_|swsl_|ig_)?(resnet(18|34|50|101|152)|resnext\d+_\d+x\d+d|wide_resnet\d+_2)(\..+)?"
)


def huggingface_contract(weights: Path, contract: InputContract) -> tuple[InputContract, str] | None:
    """Mean, standard deviation and stride placement as the two files beside `weights` say."""
    preprocessor, config = (_read(weights.with_name(name)) for name in HUGGING_FACE_FILES)
    if preprocessor is None and config is None:
        return None
    found = []
    if config is not None and config.get("model_type", "resnet") != "resnet":
        raise CheckpointError(
            f"{weights.with_name('config.json')}: expected model_type resnet, found {config['model_type']}"
        )
    if config is not None and config.get("downsample_in_bottleneck"):
        contract = replace(contract, stride_in_1x1=True)
        found.append("stride in the 1x1 from config.json")
    if config is not None and config.get("downsample_in_first_stage"):
        raise CheckpointError(
            f"{weights}: its first stage strides (downsample_in_first_stage), which Detectron2's does not"
        )
    if preprocessor is not None:
        contract = _normalisation(contract, preprocessor, weights)
        found.append("mean and std from preprocessor_config.json")
    return contract, "; ".join(found) or "config.json read; it changes nothing"


def _normalisation(contract: InputContract, values: dict[str, Any], weights: Path) -> InputContract:
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if abs(scale * 255 - 1) > 1e-6:
        raise CheckpointError(f"{weights}: its preprocessor scales pixels by {scale}; expected 1/255")
    if not values.get("do_normalize", True):
        return replace(contract, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return replace(
        contract,
        mean=_three(values.get("image_mean", contract.mean), weights, "image_mean"),
        std=_three(values.get("image_std", contract.std), weights, "image_std"),
    )


def timm_contract(weights: Path, contract: InputContract) -> tuple[InputContract, str] | None:
    """Mean and standard deviation as timm's config.json says. Raises CheckpointError for a network that only looks plain."""
    config = _read(weights.with_name(TIMM_FILE))
    if config is None or "architecture" not in config:
        return None
    if not TIMM_PLAIN.fullmatch(str(config["architecture"])):
        raise CheckpointError(
            f"{weights}: timm's {config['architecture']} (config.json) is not a plain ResNet, even where its tensors are"
        )
    given = config.get("pretrained_cfg", config)
    mean = _three(given.get("mean", contract.mean), weights, "mean")
    std = _three(given.get("std", contract.std), weights, "std")
    return replace(contract, mean=mean, std=std), f"mean and std from timm's config.json ({config['architecture']})"


def _three(values: Any, weights: Path, name: str) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise CheckpointError(f"{weights}: {name} beside it expected three numbers, found {values!r}")
    red, green, blue = map(float, values)
    return red, green, blue


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}, beside the weights, is not JSON: {error}") from None
    return values if isinstance(values, dict) else None
