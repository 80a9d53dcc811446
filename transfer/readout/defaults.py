"""The readout that fits where the user names no configuration file: the paper's for many images, a small one for few.

The paper's protocol (rate 30, a new view of every image in each epoch) is made for 1.28 million images and a ResNet-50's features
at 224 px; on a small encoder and a few hundred images it diverges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.base.config_files import shipped_configs
from pretrain.base.errors import CheckpointError
from pretrain.data.default_run import usual_side
from pretrain.data.source import ImageSource
from pretrain.run.checkpoint import read_checkpoint, resolve_checkpoint
from transfer.conversion.sidecar import parse_sidecar, sidecar_path
from transfer.readout.config import LinearConfig, load_linear_config
from transfer.readout.features import require_splits

MANY_IMAGES = 50_000  # from here on the paper's protocol


def default_readout(weights: str, data: Path, overrides: Sequence[str] = ()) -> tuple[LinearConfig, str]:
    """(configuration, one sentence on why) for `weights` on `data`/train.

    The image size is the one that the encoder was pre-trained with, where its checkpoint says so, else the images' own
    (shorter side, at most 224, a multiple of 32). Raises ConfigError and DataError as loading does.
    """
    load_linear_config(None, overrides)  # a mistyped override is refused before the images are looked at
    require_splits(data)
    images = ImageSource(data / "train")
    if len(images) >= MANY_IMAGES:
        return load_linear_config(None, overrides), f"the paper's protocol: {len(images)} training images"
    size, origin = fitting_image_size(weights, images)
    given = {word.partition("=")[0] for word in overrides}
    sized = [] if "image_size" in given else [f"image_size={size}"]
    config = load_linear_config(shipped_configs() / "linear" / "small.yaml", [*sized, *overrides])
    at = f"{config.image_size} px ({origin} {size} px)" if sized else f"{config.image_size} px"
    compare = f"; pass image_size={size} to every readout that this one is compared with" if sized else ""
    return config, (
        f"a small readout at {at}: {len(images)} training images{compare}; for the paper's protocol pass --config-file imagenet_r50"
    )


def fitting_image_size(weights: str, images: ImageSource) -> tuple[int, str]:
    """(pixels, the words before them): what the encoder was pre-trained at, where that is known, else the images' own size."""
    size = trained_image_size(Path(weights)) if not weights.startswith("random:") else None
    return (size, "the encoder was pre-trained at") if size else (usual_side(images), "the images' own size,")


def trained_image_size(weights: Path) -> int | None:
    """The image size of the run that weights come from: a run of ours, its checkpoint, or a converted one (its sidecar says).

    None where nothing says.
    """
    try:
        if sidecar_path(weights).is_file():
            size = parse_sidecar(weights).source.get("image_size")
        else:
            size = read_checkpoint(resolve_checkpoint(weights))["config"]["views"]["image_size"]
    except (CheckpointError, OSError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None
