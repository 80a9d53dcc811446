"""What a study does not say, chosen by its images and this machine: configuration files, image size, anchors, batch, arch.

In: `StudyConfig`, the labelled images, the pool's size, the device. Out: `Choices`, values by key with a sentence on each; they
are printed, kept in OUT/choices.json, and used again when the study goes on, so that nothing changes under what is done.
What the study says is never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.base.atomic import write_json
from pretrain.base.config_files import find_config
from pretrain.base.errors import ConfigError, DataError, UserError
from pretrain.base.strict import overridden_keys
from pretrain.config import load_run_config
from pretrain.data.default_run import memory_of, small_file
from transfer.compare.random_input import encoder_of, random_inputs
from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    InitConfig,
    PretrainConfig,
    StudyConfig,
    detection_file,
    pretrain_file,
    weight_file,
)

if TYPE_CHECKING:
    from transfer.data.records import DetectionData

FORMAT = "infomin-transfer/study-choices"
CHOICES = "choices.json"
LARGE_RUN = "infomin_r50_200ep"  # of configs/pretrain, with a GPU; without one what tools/pretrain.py takes by itself
SMALL_ARCH, LARGE_ARCH = "resnet18", "resnet50"
SMALL_FAMILY = "demo/R_18_FPN.yaml"  # made for two cores
FAMILIES = {  # of transfer/configs, by the encoder
    "resnet18": "coco/R_18_FPN_1x.yaml",
    "resnet34": "coco/R_34_FPN_1x.yaml",
    "resnet50": "coco/R_50_FPN_1x.yaml",
    "resnet101": "coco/R_101_FPN_1x.yaml",
    "resnext101_32x8d": "coco/X_101_FPN_1x.yaml",
}
SMALLEST_BOX = 16  # pixels: two strides of the finest level that the small family has anchors on
SIDES = range(160, 321, 32)  # pixels of the shorter side, for the small family
LONGER = 1.5  # times the shorter side, at most
WARMUP_SHARE = 0.1  # of the epochs


@dataclass(frozen=True)
class Choices:
    """values: dotted key of the study -> value; "detect.overrides" come before the study's own. notes: why.

    budget: the time that epochs and iterations were made for. measured: start and step of each kind of stage, for the record.
    estimate: by them, seconds of one stage of each kind.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    budget: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    estimate: Mapping[str, float] = field(default_factory=dict)


def save_choices(choices: Choices, output_dir: Path) -> None:
    """Write OUT/choices.json."""
    content = {
        "values": dict(choices.values),
        "notes": list(choices.notes),
        "budget": choices.budget,
        "measured": dict(choices.measured),
        "estimate": dict(choices.estimate),
    }
    write_json(output_dir / CHOICES, {"format": FORMAT, **content})


def read_choices(output_dir: Path) -> Choices | None:
    """Those of an earlier start in this folder. Raises DataError for a damaged file."""
    path = output_dir / CHOICES
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content.pop("format") == FORMAT
        return Choices(**{**content, "notes": tuple(content["notes"])})
    except (OSError, ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); name another --output-dir") from None


def require_same_budget(choices: Choices, config: StudyConfig, output_dir: Path) -> None:
    """Raise ConfigError where what is done was made for another budget: its figures would not be comparable with new ones."""
    if config.budget is not None and choices.budget is not None and choices.budget != config.budget:
        raise ConfigError(
            f"{output_dir} was begun with --budget {choices.budget}: {_made_for(choices)}. Pass that budget to go on, or another "
            f"--output-dir for --budget {config.budget}"
        )


def _made_for(choices: Choices) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in choices.values.items() if key.endswith(("epochs", "iterations"))
    )


# --- applying them ------------------------------------------------------------------------------------------------------


def apply_choices(config: StudyConfig, choices: Choices) -> StudyConfig:
    """The study with its gaps filled; what it says stays."""
    values = choices.values
    pretrain = config.pretrain and _pretrain(config.pretrain, values, "pretrain")
    inits = tuple(
        replace(
            init,
            pretrain=init.pretrain and _pretrain(init.pretrain, values, f"inits.{init.name}.pretrain"),
            input_of=init.input_of or values.get(f"inits.{init.name}.input_of"),
        )
        for init in config.inits
    )
    detect = config.detect
    if detect is not None:
        detect = replace(
            detect,
            config_file=detect.config_file or values.get("detect.config_file"),
            iterations=detect.iterations or values.get("detect.iterations"),
            overrides=(*values.get("detect.overrides", ()), *detect.overrides),
        )
    readout = config.readout
    if readout is not None:
        file = values.get("readout.config_file")
        readout = replace(
            readout,
            arch=readout.arch or values.get("readout.arch"),
            config_file=readout.config_file or (Path(file) if file else None),
        )
    return replace(config, pretrain=pretrain, inits=inits, detect=detect, readout=readout)


def _pretrain(part: PretrainConfig, values: Mapping[str, Any], key: str) -> PretrainConfig:
    file = values.get(f"{key}.config_file")
    given = overridden_keys(part.overrides)
    chosen = [word for word in values.get(f"{key}.overrides", ()) if word.partition("=")[0] not in given]
    return replace(
        part,
        config_file=part.config_file or (Path(file) if file else None),
        epochs=part.epochs or values.get(f"{key}.epochs"),
        overrides=(*chosen, *part.overrides),
    )


# --- choosing -----------------------------------------------------------------------------------------------------------


def choose(config: StudyConfig, *, train: DetectionData | None, pool_size: int | None, on_gpu: bool) -> Choices:
    """Files and settings, all but epochs and iterations. Raises ConfigError for initialisations that no detector takes together."""
    values: dict[str, Any] = {}
    notes: list[str] = []
    arch, why = _architecture(config, on_gpu)
    inputs, why_input = random_inputs(config)
    values |= inputs
    notes += why_input
    for key, part in _parts(config).items():
        if part.config_file is None:
            name = small_file(pool_size or 0) if arch == SMALL_ARCH and not on_gpu else LARGE_RUN
            values[f"{key}.config_file"] = str(find_config(Path(name), "pretrain"))
            if name == LARGE_RUN and arch != LARGE_ARCH and "encoder.arch" not in overridden_keys(part.overrides):
                values[f"{key}.overrides"] = [f"encoder.arch={arch}"]
            images = f", {pool_size:,} images" if pool_size is not None and not on_gpu else ""
            notes.append(f"{key}: {name}, {'a GPU' if on_gpu else 'no GPU'}{images}")
        if pool_size is not None:
            fitted = _memory(_pretrain(part, values, key), pool_size)
            if fitted:
                values[f"{key}.overrides"] = [*values.get(f"{key}.overrides", ()), *fitted]
                notes.append(f"{key}: {', '.join(fitted)} for {pool_size:,} images")
    if config.detect is not None and config.detect.config_file is None:
        family = SMALL_FAMILY if arch == SMALL_ARCH and not on_gpu else FAMILIES.get(arch)
        if family is None:
            raise ConfigError(
                f"no family of transfer/configs for the encoder {arch} ({why}); pass detect.config_file=FAMILY"
            )
        values["detect.config_file"] = family
        notes.append(f"detector: {family}, for the encoder {arch} ({why})")
    if config.readout is not None:
        if config.readout.arch is None:
            values["readout.arch"] = arch
        if config.readout.config_file is None:
            values["readout.config_file"] = str(
                find_config(Path("small.yaml" if on_gpu else "small_64px.yaml"), "linear")
            )
    chosen = Choices(values, tuple(notes))
    if train is not None and "detect.config_file" in values:
        overrides, more = _detector_settings(apply_choices(config, chosen), train, on_gpu=on_gpu)
        chosen = Choices({**values, "detect.overrides": overrides}, (*notes, *more))
    return chosen


def require_weights(config: StudyConfig) -> None:
    """Read the weight files of a study, before anything is written. Raises CheckpointError, ConfigError for one that is none."""
    for init in config.inits:
        path = weight_file(init)
        try:
            _ = encoder_of(path) if path is not None else None
        except UserError as error:
            raise type(error)(f"inits: {init.name}: {error}") from None


def _parts(config: StudyConfig) -> dict[str, PretrainConfig]:
    """The study's pre-trainings by key."""
    return {f"inits.{name}.pretrain" if name else "pretrain": part for name, part in config.pretrainings.items()}


def _memory(part: PretrainConfig, pool_size: int) -> list[str]:
    """A queue or bank that the pool can fill."""
    file = pretrain_file(part)
    assert file is not None
    given = overridden_keys(part.overrides)
    run = load_run_config(
        file, ["data.root=POOL", *(word for word in part.overrides if not word.startswith("data.root="))]
    )
    return [word for word in memory_of(run, pool_size) if word.partition("=")[0] not in given]


def _architecture(config: StudyConfig, on_gpu: bool) -> tuple[str, str]:
    """The encoder of all initialisations, and why it is that one."""
    asked: dict[str, str] = {}
    for key, part in _parts(config).items():
        file = pretrain_file(part)
        given = [word for word in part.overrides if word.startswith("encoder.arch=")]
        if file is not None or given:
            overrides = ["data.root=POOL", *(word for word in part.overrides if not word.startswith("data.root="))]
            run = load_run_config(file or find_config(Path(LARGE_RUN), "pretrain"), overrides)
            asked[key] = run.encoder.arch
    for init in config.inits:
        path = weight_file(init)
        if path is not None:
            asked[init.name] = encoder_of(path)[0]
        elif (catalogued := _catalog_arch(init)) is not None:
            asked[init.name] = catalogued
    if config.readout is not None and config.readout.arch is not None:
        asked["readout.arch"] = config.readout.arch
    if len(set(asked.values())) > 1:
        shown = ", ".join(f"{name}: {arch}" for name, arch in asked.items())
        raise ConfigError(
            f"the initialisations have different encoders ({shown}), and one detector takes one of them; compare those of one "
            "kind, or pre-train that one: pretrain.overrides=[encoder.arch=ARCH]"
        )
    if asked:
        name, arch = next(iter(asked.items()))
        return arch, f"that of {name}"
    return (LARGE_ARCH, "a GPU") if on_gpu else (SMALL_ARCH, "no GPU")


def _catalog_arch(init: InitConfig) -> str | None:
    """Of a name of the detector's catalog."""
    if init.weights in (NO_WEIGHTS, PRETRAINED):  # the catalog needs Detectron2, which takes a second to import
        return None
    from transfer.conversion.published import catalog_entry
    from transfer.detect.inits import CATALOG

    known = CATALOG.get(init.weights)
    entry = catalog_entry(known.weights if known else init.weights)
    return entry.arch if entry else None


def _detector_settings(config: StudyConfig, train: DetectionData, *, on_gpu: bool) -> tuple[list[str], list[str]]:
    """KEY VALUE pairs of image size, batch, rate and anchors for these boxes, and why."""
    from transfer.detect.anchors import show_sizes
    from transfer.detect.config import load_detector_config
    from transfer.detect.scaling import scale_config

    part, file = config.detect, detection_file(config)
    assert part is not None and file is not None
    given = frozenset(part.overrides[::2])
    words: list[str] = []
    notes = []
    if part.config_file == SMALL_FAMILY and not given & {"INPUT.MIN_SIZE_TEST", "INPUT.MIN_SIZE_TRAIN"}:
        side, why = image_side(train.records)
        words += side_overrides(side)
        notes.append(f"images: shorter side {side} px ({why})")
    published = load_detector_config(file)
    asked = load_detector_config(file, [*words, *part.overrides])
    if on_gpu and asked.MODEL.DEVICE == "cpu" and "MODEL.DEVICE" not in given:
        words += ["MODEL.DEVICE", "cuda"]
    scaled, _ = scale_config(asked, published, given=given, num_processes=1, train=train)
    for key, before, after in (
        ("SOLVER.IMS_PER_BATCH", asked.SOLVER.IMS_PER_BATCH, scaled.SOLVER.IMS_PER_BATCH),
        ("SOLVER.BASE_LR", asked.SOLVER.BASE_LR, scaled.SOLVER.BASE_LR),
    ):
        if before != after and key not in given:
            words += [key, f"{after:g}"]
            notes.append(f"{key} {after:g} on one device (the family's is {before:g})")
    sizes = scaled.MODEL.ANCHOR_GENERATOR.SIZES
    if list(sizes) != list(asked.MODEL.ANCHOR_GENERATOR.SIZES):
        text = show_sizes(sizes).strip('"')
        words += ["MODEL.ANCHOR_GENERATOR.SIZES", text]
        notes.append(
            f"anchors {text} px, from the boxes' sizes (the family's: {list(asked.MODEL.ANCHOR_GENERATOR.SIZES)})"
        )
    return words, notes


def image_side(records: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The shorter side for the small family: the least of SIDES at which nine boxes of ten are SMALLEST_BOX px or more; never
    above the images' own."""
    import numpy as np

    shares, own = [], []
    for record in records:
        short = min(record["height"], record["width"])
        own.append(short)
        for thing in record["annotations"]:
            x1, y1, x2, y2 = thing["bbox"]
            if not thing.get("iscrowd", 0):
                shares.append(((x2 - x1) * (y2 - y1)) ** 0.5 / short)
    small = float(np.quantile(shares, 0.1))
    needed = SMALLEST_BOX / max(small, 1e-6)
    limit = max(SIDES[0], float(np.median(own)))
    fitting = [side for side in SIDES if side <= limit] or [SIDES[0]]
    side = next((side for side in fitting if side >= needed), fitting[-1])
    short_of = (
        ""
        if side >= needed
        else f", which would take {needed:.0f} px: too slow without a GPU, or larger than the images"
    )
    return side, f"one box in ten is below {small * side:.0f} px there{short_of}"


def side_overrides(side: int) -> list[str]:
    """KEY VALUE pairs of an image size; training sizes as the small family has them, 5/6, 11/12 and 1 of it."""
    train = tuple(round(side * share / 16) * 16 for share in (5 / 6, 11 / 12, 1))
    longest = str(round(LONGER * side))
    return [
        *("INPUT.MIN_SIZE_TRAIN", str(train), "INPUT.MAX_SIZE_TRAIN", longest),
        *("INPUT.MIN_SIZE_TEST", str(side), "INPUT.MAX_SIZE_TEST", longest),
    ]
