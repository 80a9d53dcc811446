"""A sweep as a list of stages: for each seed and setting pre-train, measure the information, evaluate downstream.

In: `SweepConfig` and the folder for its recipe files. Out: `Point`s, each with its `Stage` values, in running order; seed by
seed, so that the first whole curve is there early. Commands are the project's own tools.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from pretrain.views.families import Setting, show_setting
from pretrain.views.recipe_file import recipe_to_plain
from transfer.compare.stages import Stage, checkpoint_of, rooted
from transfer.compare.sweep_config import FOLDED, SweepConfig


@dataclass(frozen=True)
class Point:
    """One setting with one seed. stages: in order. information, accuracy: result files, below the sweep's folder."""

    setting: Setting
    seed: int
    stages: tuple[Stage, ...]
    information: str
    accuracy: str | None


def recipe_file(config: SweepConfig, setting: Setting) -> str:
    """recipes/NAME-HASH.yaml, below the sweep's folder: another content is another file, and so another command."""
    recipe = config.recipe(setting)
    content = json.dumps(recipe_to_plain(recipe), sort_keys=True)
    return f"recipes/{recipe.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.yaml"


def plan_points(config: SweepConfig) -> tuple[Point, ...]:
    """All points of a sweep."""
    return tuple(_point(config, setting, seed) for seed in config.seeds for setting in config.settings)


def all_stages(points: tuple[Point, ...]) -> tuple[Stage, ...]:
    """Every point's stages, in order."""
    return tuple(stage for point in points for stage in point.stages)


def _point(config: SweepConfig, setting: Setting, seed: int) -> Point:
    name = f"{config.recipe(setting).name}_seed{seed}"
    title = f"{config.family.name} {show_setting(setting)}, seed {seed}"
    if config.pair_encoders:
        return _pair_point(config, setting, seed, name, title)
    assert config.pretrain_config is not None
    pretrain = Stage(
        name=f"{name}-pretrain",
        title=f"{title}: pre-train",
        command=(
            "{root}/tools/pretrain.py",
            *("--config-file", rooted(config.pretrain_config.absolute())),
            *("--output-dir", f"{{output}}/{name}/pretrain", "--resume", "auto"),
            *_overrides(config, setting, seed),
        ),
        folder=f"{name}/pretrain",
        result=f"{name}/pretrain/result.json",
        files=(config.pretrain_config,),
        resumes=True,
    )
    information = f"{name}/information/information_result.json"
    measure = Stage(
        name=f"{name}-measure",
        title=f"{title}: measure the information",
        command=(
            "{root}/tools/measure_views.py",
            *("--checkpoint", checkpoint_of(f"{name}/pretrain"), "--data", str(config.data / "val")),
            *("--batch-size", str(config.measure_batch), "--json", f"{{output}}/{information}"),
        ),
        folder=f"{name}/information",
        result=information,
        needs=(pretrain.name,),
    )
    downstream = {"readout": _readout, "detection": _detection}.get(config.downstream)
    rest = downstream(config, name, title, seed) if downstream else ()
    return Point(setting, seed, (pretrain, measure, *rest), information, rest[-1].result if rest else None)


def _pair_point(config: SweepConfig, setting: Setting, seed: int, name: str, title: str) -> Point:
    """Two small encoders on the two parts of the channels: one command, one result with both figures."""
    files = (config.pretrain_config,) if config.pretrain_config else ()
    result = f"{name}/views/view_result.json"
    stage = Stage(
        name=f"{name}-views",
        title=f"{title}: train two encoders, measure, probe",
        command=(
            "{root}/tools/evaluate_views.py",
            *("--views", show_setting(setting), "--data", str(config.data), "--output-dir", f"{{output}}/{name}/views"),
            *(part for path in files for part in ("--config-file", rooted(path.absolute()))),
            *("--seeds", str(seed), "--", *config.overrides),
        ),
        folder=f"{name}/views",
        result=result,
        files=files,
    )
    return Point(setting, seed, (stage,), result, None if config.downstream == "none" else result)


def _overrides(config: SweepConfig, setting: Setting, seed: int) -> tuple[str, ...]:
    """The user's own, less what the recipe file says, then data, seed and recipe."""
    replaced = {"data.root", "seed", "views.recipe", *(f"views.{key}" for key in FOLDED)}
    return (
        *(text for text in config.overrides if text.partition("=")[0] not in replaced),
        *(f"views.{key}=null" for key in config.unset),
        f"data.root={config.data / 'train'}",
        f"seed={seed}",
        f"views.recipe={{output}}/{recipe_file(config, setting)}",
    )


def _readout(config: SweepConfig, name: str, title: str, seed: int) -> tuple[Stage, ...]:
    folder = f"{name}/readout"
    return (
        Stage(
            name=f"{name}-readout",
            title=f"{title}: linear readout",
            command=(
                "{root}/tools/linear_eval.py",
                *("--weights", checkpoint_of(f"{name}/pretrain"), "--init-name", name.rpartition("_seed")[0]),
                *("--data", str(config.readout_data), "--output-dir", f"{{output}}/{folder}"),
                *(("--config-file", rooted(config.linear_config.absolute())) if config.linear_config else ()),
                f"seed={seed}",
            ),
            folder=folder,
            result=f"{folder}/linear_result.json",
            needs=(f"{name}-pretrain",),
            files=(config.linear_config,) if config.linear_config else (),
        ),
    )


def _detection(config: SweepConfig, name: str, title: str, seed: int) -> tuple[Stage, ...]:
    assert config.detection is not None
    weights, folder = f"{{output}}/{name}/weights/pretrained.pth", f"{name}/detect"
    convert = Stage(
        name=f"{name}-convert",
        title=f"{title}: convert the weights and prove them equal",
        command=(
            "{root}/tools/convert_weights.py",
            *(checkpoint_of(f"{name}/pretrain"), weights, "--branch", "query", "--overwrite"),
        ),
        folder=f"{name}/weights",
        result=f"{name}/weights/pretrained.pth",
        needs=(f"{name}-pretrain",),
    )
    detect = Stage(
        name=f"{name}-detect",
        title=f"{title}: fine-tune",
        command=(
            "{root}/tools/train_net.py",
            *("--config-file", rooted(config.detection.config_file.absolute())),
            *("--train-data", config.detection.train_data, "--test-data", config.detection.test_data),
            *("--init", name.rpartition("_seed")[0]),
            *("OUTPUT_DIR", f"{{output}}/{folder}", "SEED", str(seed), "MODEL.WEIGHTS", weights),
        ),
        folder=folder,
        result=f"{folder}/result.json",
        needs=(convert.name,),
        files=(config.detection.config_file,),
    )
    return convert, detect
