"""The record of a sweep's point: one setting with one seed, in NAME_seedS/record.json.

The experiment is what all points of a sweep share: family, base recipe, pre-training, measure, images. The setting is its
subject, so it names the initialisation and stays out of the hash; its recipe is in `config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.base.record import DataRecord, Initialisation, Record, experiment_hash, without
from pretrain.config import experiment_of, load_run_config, to_plain
from pretrain.data.source import ImageSource
from pretrain.good_views.view_learning.evaluation import load_evaluation_config
from pretrain.views.families import Setting, show_setting
from pretrain.views.recipe_file import recipe_to_plain
from transfer.compare.sweep_config import FOLDED, Sweep
from transfer.compare.sweep_figures import Figures
from transfer.readout.config import NOT_PROTOCOL, load_linear_config

# Of a pre-training: what a recipe file says, which is the subject of a sweep.
IN_THE_RECIPE = ("views.recipe", *(f"views.{key}" for key in FOLDED))


def describe_sweep(sweep: Sweep) -> tuple[dict[str, Any], dict[str, DataRecord]]:
    """(experiment, data) that all points share. The images' names and sizes are looked at once."""
    data = _data(sweep)
    experiment = {
        "family": sweep.family.name,
        "base": recipe_to_plain(sweep.base),
        "image_size": sweep.image_size,
        "measure_batch": sweep.measure_batch,
        "pretraining": _pretraining(sweep),
        "downstream": {"kind": sweep.downstream, "figure": sweep.unit_of_accuracy, **_downstream(sweep)},
        "data": {role: split.fingerprint for role, split in data.items()},
    }
    return experiment, data


def point_record(
    sweep: Sweep, setting: Setting, seed: int, *, shared: tuple[dict[str, Any], dict[str, DataRecord]], command: str
) -> Record:
    """How the record of a point begins. shared: of `describe_sweep`."""
    experiment, data = shared
    recipe = recipe_to_plain(sweep.recipe(setting))
    pretraining = {"config": experiment["pretraining"], "recipe": recipe, "data": experiment["data"]["train"]}
    return Record(
        kind="sweep-point",
        experiment=experiment,
        config={
            "family": sweep.family.name,
            "setting": setting,
            "recipe": recipe,
            "pretrain_config": str(sweep.pretrain_config),
            "overrides": list(sweep.overrides),
            "downstream": sweep.downstream,
            "linear_config": str(sweep.linear_config),
            "measure_batch": sweep.measure_batch,
        },
        seeds={"run": seed, "pretraining": seed},
        commands=(command,) if command else (),
        data=data,
        metric=sweep.unit_of_accuracy,
        initialisation=Initialisation(
            name=f"{sweep.family.name} {show_setting(setting)}",
            source="asked",
            pretraining={"seed": seed, "hash": experiment_hash(pretraining)},
        ),
    )


def point_figures(figures: Figures) -> dict[str, float | None]:
    """info_nce and its interval in nats; accuracy in percent, where it is measured."""
    information = figures.information
    found: dict[str, float | None] = {
        "info_nce": information.nats,
        "info_nce_low": information.low,
        "info_nce_high": information.high,
        "info_nce_ceiling": information.ceiling,
    }
    return found if figures.accuracy is None else {**found, "accuracy": figures.accuracy}


def _pretraining(sweep: Sweep) -> dict[str, Any]:
    if sweep.pair_encoders:
        return without(to_plain(load_evaluation_config(sweep.pretrain_config, sweep.overrides)), ("device",))
    assert sweep.pretrain_config is not None
    root = f"data.root={sweep.data / 'train'}"
    return without(
        experiment_of(to_plain(load_run_config(sweep.pretrain_config, (*sweep.overrides, root)))), IN_THE_RECIPE
    )


def _downstream(sweep: Sweep) -> dict[str, Any]:
    if sweep.detection is not None:
        from transfer.detect.config import load_detector_config
        from transfer.detect.experiment import experiment_config as detector_experiment

        return {"detector": detector_experiment(load_detector_config(sweep.detection.config_file))}
    if sweep.downstream == "readout" and sweep.linear_config is not None:
        return {"readout": without(to_plain(load_linear_config(sweep.linear_config)), NOT_PROTOCOL)}
    return {}  # tools/linear_eval.py chooses by the images, or two small encoders are probed


def _data(sweep: Sweep) -> dict[str, DataRecord]:
    folders = {"train": sweep.data / "train", "test": sweep.data / "val"}
    if sweep.downstream == "readout" and sweep.readout_data != sweep.data:
        folders |= {"readout_train": sweep.readout_data / "train", "readout_test": sweep.readout_data / "val"}
    found = {role: _images(folder) for role, folder in folders.items()}
    if sweep.detection is not None:
        found |= {
            "detection_train": _labelled(sweep.detection.train_data),
            "detection_test": _labelled(sweep.detection.test_data),
        }
    return found


def _images(folder: Path) -> DataRecord:
    source = ImageSource(folder)
    return DataRecord(str(folder), source.fingerprint(), len(source), len(source))


def _labelled(spec: str) -> DataRecord:
    from transfer.data.fingerprint import fingerprint
    from transfer.data.spec import parse_spec, read_data

    data = read_data(parse_spec(spec))
    return DataRecord(spec, fingerprint(data.records, data.class_names), len(data.records))
