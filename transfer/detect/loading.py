"""Where a detector's weights come from, whether they may be used, and the proof that they arrived.

In: MODEL.WEIGHTS and the run's mode. Out: a `WeightsPlan` before anything is written; after loading, one sentence on what was
checked. Weights without a sidecar are refused unless they are Detectron2's own, or the user vouches for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import RECORD, Record, read_record
from pretrain.base.shapes_only import shapes_only
from pretrain.base.strict import load_yaml
from transfer.conversion.fitting import DETECTOR_USES
from transfer.conversion.layouts import DETECTOR_LAYOUT, DETECTRON2_LAYOUTS
from transfer.conversion.published import CATALOG_SCHEMES, catalog_entry
from transfer.conversion.sidecar import detectron2_settings, read_sidecar, sidecar_path
from transfer.conversion.sources import load_backbone
from transfer.conversion.targets import target_named
from transfer.detect.checkpointer import Newest, class_names_in, newest_checkpoint
from transfer.detect.checks import (
    check_backbone_loaded,
    check_model_loaded,
    check_settings,
    flat_settings,
    read_tensors,
    same_shape,
    same_values,
)

CONFIG_FILE = "config.yaml"  # Detectron2's dump of a run's configuration
OLD_RESULT, OLD_FORMAT = "result.json", "infomin-transfer/detection-result"  # of a finished run from before the record


@dataclass(frozen=True)
class WeightsPlan:
    """The weights that a run starts from.

    kind: "random" = none; "catalog" = Detectron2's own; "converted" = with a sidecar that the configuration agrees with;
        "trusted" = the user vouches for them; "checkpoint" = a complete detector.
    weights: file or address.
    sidecar: its content, of converted weights.
    trained: record of the run that a complete detector comes from, where it lies beside it.
    class_names: of a complete detector, in the order of its outputs: the checkpoint's own, else those of `trained`, else those
        in the result of a run from before the record.
    newest: of a run that goes on, its newest checkpoint and those that are damaged.
    """

    kind: Literal["random", "catalog", "converted", "trusted", "checkpoint"]
    weights: str
    sidecar: dict[str, Any] | None = None
    trained: Record | None = None
    class_names: tuple[str, ...] | None = None
    newest: Newest | None = None

    @property
    def note(self) -> str:
        """One sentence for the log."""
        return {
            "random": "weights: random initialisation (MODEL.WEIGHTS is empty)",
            "catalog": f"weights: {self.weights} from Detectron2's catalog; {self._catalog_note}",
            "converted": f"weights: {self.weights}; the configuration agrees with its sidecar",
            "trusted": f"weights: {self.weights} WITHOUT a sidecar that proves it: you vouch (--trust) for channel order, mean, std and stride",
            "checkpoint": f"weights: {self.weights}, a complete detector",
        }[self.kind]

    @property
    def _catalog_note(self) -> str:
        entry = catalog_entry(self.weights)
        if entry is None:
            return (
                "nothing here knows which input they were trained on: channel order, mean, std and stride are the "
                "configuration's, unchecked"
            )
        return f"the configuration agrees with their input ({entry.source})"


def plan_weights(config: CfgNode, *, eval_only: bool, resume: bool, trust: bool) -> WeightsPlan:
    """Decide before anything is built. Raises ConfigError or CheckpointError with what to pass instead."""
    weights = config.MODEL.WEIGHTS
    newest = newest_checkpoint(Path(config.OUTPUT_DIR)) if resume else None
    if newest is not None:
        return replace(_plan_detector(config, str(newest.path)), newest=newest)
    if eval_only:
        if not weights:
            raise ConfigError(
                "--eval-only needs a detector: pass MODEL.WEIGHTS RUN/model_final.pth, or --resume for OUTPUT_DIR's own"
            )
        return _plan_detector(config, weights if weights.startswith(CATALOG_SCHEMES) else _local(weights, trust))
    if not weights:
        return WeightsPlan("random", "")
    known = catalog_entry(weights)
    if known is not None:
        check_settings(
            config, detectron2_settings(known.arch, known.contract), where=f"what {weights} expects ({known.source})"
        )
    if weights.startswith(CATALOG_SCHEMES):
        return WeightsPlan("catalog", weights)
    path = Path(_local(weights, trust))
    if not sidecar_path(path).is_file():
        if trust:
            return WeightsPlan("trusted", weights)
        raise CheckpointError(without_sidecar(weights, path))
    try:
        sidecar = read_sidecar(path)  # refuses one that is damaged, of another file, or without a proof that passed
    except CheckpointError as error:
        if trust:
            return WeightsPlan("trusted", weights)
        raise CheckpointError(f"{error}; or add --trust to vouch for it yourself") from None
    if not target_named(sidecar.target).detectron2:
        raise CheckpointError(
            f"{weights} was written for {sidecar.target}; convert the checkpoint with `python tools/convert_weights.py INPUT "
            "OUTPUT.pth`, whose default is Detectron2"
        )
    try:
        check_settings(config, sidecar.detectron2, where=f"the weights' sidecar {sidecar_path(path)}")
    except ConfigError as error:
        raise ConfigError(
            f"{error}\nor pass --init NAME={weights} in place of MODEL.WEIGHTS, which sets how the weights want their input"
        ) from None
    return WeightsPlan("converted", weights, sidecar.to_dict())


def without_sidecar(weights: str, path: Path, *, use: str = "MODEL.WEIGHTS OUTPUT.pth") -> str:
    """What a file without a sidecar is, and what to do with one of its kind: as the converter recognises it. use: how the
    converted file is passed."""
    lacks = f"{weights} has no sidecar at {sidecar_path(path)}"
    trust = "Or add --trust to vouch for its input yourself"
    convert = f"convert it with `python tools/convert_weights.py {weights} OUTPUT.pth` and pass {use}"
    try:
        layout = load_backbone(path).layout
    except (CheckpointError, ConfigError) as error:
        said = str(error)
        if DETECTOR_USES.format(path) in said:
            return said  # a detector whose own configuration is not beside it
        return (
            f"{said}. {trust}"
            if str(sidecar_path(path)) in said
            else f"{lacks}, and cannot be converted: {said}. {trust}"
        )
    if layout == DETECTOR_LAYOUT:
        uses = DETECTOR_USES.format(weights)
        return f"{weights} is a whole detector, not the weights of a backbone: {uses}. To start from its backbone alone, {convert}"
    loadable = layout in DETECTRON2_LAYOUTS  # by Detectron2 as it is; of the others --trust would load nothing
    return f"{lacks}, so nothing says which input it was trained on: {convert}{f'. {trust}' if loadable else ''}"


def _plan_detector(config: CfgNode, weights: str) -> WeightsPlan:
    """A complete detector. Its checkpoint holds its classes; config.yaml and record.json beside it say what it was fed, and
    what it started from."""
    folder = Path(weights).parent
    if (folder / CONFIG_FILE).is_file():
        settings = flat_settings(load_yaml(folder / CONFIG_FILE))
        check_settings(config, settings, where=f"the detector's own {folder / CONFIG_FILE}")
    if "://" in weights:
        return WeightsPlan("checkpoint", weights)
    trained = _record_beside(folder)
    names = class_names_in(Path(weights))
    if trained is not None and names is not None and trained.class_names != names:
        trained = None  # the file was copied into the folder of another run
    if names is None:
        names = (trained.class_names or None) if trained is not None else _old_class_names(folder)
    return WeightsPlan("checkpoint", weights, trained=trained, class_names=names)


def _record_beside(folder: Path) -> Record | None:
    """The record of the training in `folder`. Raises CheckpointError for a damaged one."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_record(folder / RECORD)
    except DataError as error:
        raise CheckpointError(f"beside the weights: {error}") from None
    return record if record.kind == "detection" and not record.details.get("eval_only") else None


def _old_class_names(folder: Path) -> tuple[str, ...] | None:
    """The class names in the result of a run from before the record; None where there is none, or one of something else."""
    try:
        values = json.loads((folder / OLD_RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    names = values.get("class_names") if isinstance(values, dict) and values.get("format") == OLD_FORMAT else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def verify_fits(plan: WeightsPlan, config: CfgNode) -> None:
    """Compare the file's names and shapes with the detector that `config` builds, before anything is written.

    The detector is built without memory for its values. Raises CheckpointError. Weights at an address are checked after
    loading only: nothing is fetched for this.
    """
    if plan.kind == "random" or "://" in plan.weights:
        return
    config = config.clone()
    config.defrost()
    config.MODEL.DEVICE = "meta"
    with shapes_only():
        model = build_model(config)
    _verify(plan, model, same_shape)


def verify_loaded(plan: WeightsPlan, model: nn.Module) -> str:
    """Compare the loaded model with the file, tensor by tensor. Returns one sentence; raises CheckpointError."""
    if plan.kind == "random":
        return "backbone: random initialisation"
    return _verify(plan, model, same_values)


def _verify(plan: WeightsPlan, model: nn.Module, agree: Callable[[Tensor, Tensor], bool]) -> str:
    tensors = read_tensors(plan.weights)
    if plan.kind == "checkpoint":
        return check_model_loaded(model, tensors, where=plan.weights, agree=agree)
    affine_allowed = plan.kind != "converted"  # Detectron2's own, or vouched for; ours always hold statistics
    return check_backbone_loaded(model, tensors, where=plan.weights, agree=agree, affine_allowed=affine_allowed)


def fetch_weights(weights: str) -> None:
    """Download weights that are an address into the cache of Detectron2's path manager, before anything is written.

    Raises CheckpointError where that fails.
    """
    if "://" in weights:
        with explained_download(weights):
            PathManager.get_local_path(weights)


@contextmanager
def explained_download(weights: str) -> Iterator[None]:
    """A download that fails is a CheckpointError that says how to do without it."""
    try:
        yield
    except (OSError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        if "://" not in weights:
            raise
        raise CheckpointError(
            f"cannot download {weights}: {error}. Download the file on a machine that can, then pass MODEL.WEIGHTS FILE "
            "--trust (or MODEL.WEIGHTS '' to start from random weights)"
        ) from None


def _local(weights: str, trust: bool) -> str:
    if "://" in weights and not trust:
        raise ConfigError(
            f"MODEL.WEIGHTS {weights} is an address; expected a file, or add --trust to fetch and vouch for it"
        )
    return weights if "://" in weights else _existing(weights)


def _existing(path: str) -> str:
    if Path(path).is_dir():
        raise CheckpointError(
            f"MODEL.WEIGHTS {path} is a folder; of a pre-training run convert the newest checkpoint first: "
            f"`python tools/convert_weights.py {path} OUTPUT.pth`"
        )
    if not Path(path).is_file():
        raise CheckpointError(f"no weight file at {path} (MODEL.WEIGHTS)")
    return path
