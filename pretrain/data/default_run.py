"""The run that fits where the user names no configuration file: a small one by the number of images and by their size.

In: the overrides, which say where the images lie, and the run's folder. Out: `RunConfig`, one line that says which file it is,
what else was set and how to choose another, and the images as they were listed for that. A run that was begun goes on by the values in its folder, whatever the images are
now. The files and what they were measured to give: configs/pretrain/small_*.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.image_files import check_open_image
from pretrain.base.strict import overridden_keys, parse_overrides
from pretrain.config import RunConfig, fitting_queue_size, load_run_config, method_label, to_plain
from pretrain.data.index import LostSourceError, Source
from pretrain.data.source import open_source
from pretrain.run.folder import CONFIG

# Up to so many images -> the file. More have the last one.
FILES = ((3_000, "small_1k"), (30_000, "small_10k"))
LARGEST_FILE = "small_100k"
PAPER = "infomin_r50_200ep"
MANY_IMAGES = 300_000  # from here on the paper's run fits as well
SMALL_IMAGES = 64  # pixels: of a shorter side below this
FOR_SMALL_IMAGES = ("encoder.arch=resnet18_half", "encoder.stem=small", "views.image_size=32")
LARGEST_SIDE = 224
STRIDE = 32
LEAST_WARMED = 5  # epochs: of fewer the slow start, in whole epochs, would be too large a part
SAMPLED = 64  # images whose size is looked at


def small_file(num_images: int) -> str:
    """The configuration file of configs/pretrain for a small run on so many images."""
    return next((name for limit, name in FILES if num_images < limit), LARGEST_FILE)


def default_run(
    overrides: Sequence[str] = (), *, method: str | None = None, output_dir: Path | None = None
) -> tuple[RunConfig, str, Source | None]:
    """(configuration, one line on why, listed images) for `data.root` among `overrides`; what is given there wins.

    The images are None where the run goes on by its own file, for which none were listed.
    Raises ConfigError where no `data.root` is given, and ConfigError and DataError as loading does.
    """
    if output_dir is not None and (output_dir / CONFIG).is_file():
        begun = load_run_config(output_dir / CONFIG, overrides, method=method)
        return begun, f"no --config-file: {output_dir} goes on by its own {CONFIG}", None
    data = parse_overrides(overrides).get("data")
    root = data.get("root") if isinstance(data, dict) else None
    _refuse_what_no_file_takes(overrides, method)
    if root is None:
        raise ConfigError(
            "neither --config-file nor data.root given; pass data.root=IMAGES, by whose number a small run is chosen, "
            f"or --config-file {PAPER}"
        )
    images = open_source(str(root))
    name = small_file(len(images))
    side = usual_side(images)
    given = overridden_keys(overrides)
    sized = [word for word in FOR_SMALL_IMAGES if side < SMALL_IMAGES and not _is_given(word.partition("=")[0], given)]
    config = load_run_config(Path(name), [*sized, *overrides], method=method)
    for fit in (batch_of, memory_of, warmup_of):  # the memory's size depends on the batch's
        fitted = [word for word in fit(config, len(images)) if not _is_given(word.partition("=")[0], given)]
        if fitted:
            sized += fitted
            config = load_run_config(Path(name), [*sized, *overrides], method=method)
    detector = "; no detector takes the small stem" if config.encoder.stem == "small" else ""
    why = (
        f"no --config-file: {len(images):,} images of {_size(side)} px, so {' '.join([f'{name}.yaml', *sized])}: "
        f"{_summary(config)}{detector}. To choose another: --config-file NAME{_what_else(len(images), method)}"
    )
    return config, why, images


def _size(side: int) -> str:
    return f"{side} or more" if side == LARGEST_SIDE else f"about {side}"


def _refuse_what_no_file_takes(overrides: Sequence[str], method: str | None) -> None:
    """A mistyped override ends the command before a long listing; one that fits some of the files only waits for it."""
    errors: list[ConfigError] = []
    for name in (*(name for _, name in FILES), LARGEST_FILE):
        try:
            load_run_config(Path(name), overrides, method=method)
            return
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def batch_of(config: RunConfig, num_images: int) -> list[str]:
    """Overrides for images that do not fill a batch: the largest power of two that they fill, and its rate by the linear rule.

    A queue gets groups of BatchNorm, without which it gives the positive away; the files are SimCLR's, which has one group.
    """
    optimizer, words = config.optimizer, []
    batch = optimizer.batch_size
    if 2 <= num_images < batch:
        batch = 1 << (num_images.bit_length() - 1)
        words = [f"optimizer.batch_size={batch}"]
        for name in ("learning_rate", "warmup_start"):
            words.append(f"optimizer.{name}={getattr(optimizer, name) * batch / optimizer.batch_size:.4g}")
    shuffled = config.method.memory == "queue" and config.method.batchnorm == "shuffled"
    if shuffled and config.method.batchnorm_images > batch // 4 >= 2:
        words.append(f"method.batchnorm_images={batch // 4}")
    return words


def warmup_of(config: RunConfig, num_images: int) -> list[str]:
    """Overrides for other epochs or another rate than the file's: a tenth of the epochs as slow start, from a tenth of the rate."""
    optimizer = config.optimizer
    warmup = max(optimizer.epochs // 10, 1 if optimizer.epochs >= LEAST_WARMED else 0)
    words = [] if warmup == optimizer.warmup_epochs else [f"optimizer.warmup_epochs={warmup}"]
    if optimizer.warmup_start > optimizer.learning_rate:
        words.append(f"optimizer.warmup_start={optimizer.learning_rate / 10:.4g}")
    return words


def memory_of(config: RunConfig, num_images: int) -> list[str]:
    """Overrides that make a queue or a bank no larger than `num_images` can fill; the methods' own are made for ImageNet."""
    method = config.method
    keys_per_image = 2 if method.symmetric else 1
    if method.memory == "queue" and method.queue_size > num_images * keys_per_image:
        size = fitting_queue_size(
            num_images=num_images, batch_size=config.optimizer.batch_size, keys_per_image=keys_per_image
        )
        return [f"method.queue_size={size}"]
    if method.memory == "bank" and method.bank_negatives >= num_images:
        return [f"method.bank_negatives={max(1, num_images // 2)}"]
    return []


def _is_given(key: str, given: Sequence[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in given)


def _summary(config: RunConfig) -> str:
    return (
        f"{method_label(to_plain(config))}, {config.encoder.arch}, {config.views.image_size} px, batch "
        f"{config.optimizer.batch_size}, {config.optimizer.epochs} epochs"
    )


OWN_SHORT_RUNS = {"infomin": "small_r18_64px", "moco_v2": "small_moco_r18_64px"}


def _what_else(num_images: int, method: str | None) -> str:
    """Where another file fits as well: the method's own short run, the paper's."""
    if method in OWN_SHORT_RUNS:
        return f" ({OWN_SHORT_RUNS[method]} has views and queue for a short run of this method)"
    if torch.cuda.is_available():
        return f" ({PAPER} is the paper's, for a GPU)"
    if num_images > MANY_IMAGES:
        return f" ({PAPER} is the paper's, for so many images, on GPUs)"
    return ""


def usual_side(images: Source) -> int:
    """The median shorter side of some of the images in pixels, at most 224 and a multiple of 32 (at least 32).

    Images that cannot be read are passed over: whether they may be there is decided where the data are loaded. Raises
    LostSourceError at the first one whose server or archive fails, DataError where none can be read.
    """
    step = max(1, len(images) // SAMPLED) if images.scanned else 1  # of shards on a server the first one
    looked_at = range(0, len(images), step)[: 2 * SAMPLED]
    sides = sorted(side for index in looked_at if (side := _shorter_side(images, index)))
    if not sides:
        raise DataError(f"none of {len(looked_at)} images looked at can be read, for instance {images.where(0)}")
    middle = sides[len(sides) // 2]
    return max(STRIDE, min(LARGEST_SIDE, middle) // STRIDE * STRIDE)


def _shorter_side(images: Source, index: int) -> int | None:
    try:
        with images.open(index) as file:
            found = check_open_image(file, name=images.where(index))
        return min(found.height, found.width)
    except LostSourceError:  # the next image would wait for the same server
        raise
    except DataError:
        return None
