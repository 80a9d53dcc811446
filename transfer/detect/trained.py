"""A trained detector, loaded for use: any that Detectron2 builds and that returns instances.

In: the output folder of tools/train_net.py, one of its checkpoints, or any other weight file with the configuration that it was
trained with. Out: a `TrainedDetector`, every tensor of it compared with the file as `--eval-only` does, or a ConfigError or
CheckpointError with what to pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from pretrain.base.errors import CheckpointError, ConfigError
from transfer.conversion.weight_files import file_sha256
from transfer.detect.checkpointer import SafeCheckpointer
from transfer.detect.config import CLASS_KEYS, resolve_config
from transfer.detect.loading import CONFIG_FILE, WeightsPlan, fetch_weights, plan_weights, verify_fits, verify_loaded
from transfer.detect.options import RunOptions
from transfer.detect.request import ask_config
from transfer.detect.trainer import DetectionTrainer

FINAL_WEIGHTS, BEST_WEIGHTS = "model_final.pth", "model_best.pth"  # of a run; the best are chosen by its test AP
# Meta-architectures of Detectron2 whose output holds no instances -> what it is.
NO_INSTANCES = {"SemanticSegmentor": "a class for every pixel", "ProposalNetwork": "proposals without a class"}
ROTATED = ("RRPN", "RROIHeads")  # rotated boxes: their overlaps need Detectron2's compiled operators


@dataclass(frozen=True)
class TrainedDetector:
    """A detector in evaluation mode, on config.MODEL.DEVICE.

    config: complete and frozen. class_names: in the order of its outputs. category_ids: by which COCO files number them.
    weights: file or address. sha256: of the file; None for an address.
    skeleton: pairs of keypoints between which a line is drawn; empty where there are none.
    notes, warnings: one sentence each.
    """

    model: nn.Module
    config: CfgNode
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    weights: str
    sha256: str | None
    skeleton: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def min_score(self) -> float:
        """The score below which the detector itself returns nothing."""
        model = self.config.MODEL
        dense = model.META_ARCHITECTURE == "RetinaNet"
        return float((model.RETINANET if dense else model.ROI_HEADS).SCORE_THRESH_TEST)

    def describe(self) -> dict[str, Any]:
        """For records and sidecars: {"weights", "sha256", "meta_architecture"}."""
        return {
            "weights": self.weights if "://" in self.weights else Path(self.weights).name,
            "sha256": self.sha256,
            "meta_architecture": self.config.MODEL.META_ARCHITECTURE,
        }


def load_trained(
    where: str,
    *,
    config_file: str | None = None,
    overrides: Sequence[str] = (),
    class_names: tuple[str, ...] | None = None,
) -> TrainedDetector:
    """Build the detector, load it and prove that it arrived.

    where: RUN folder, weight file, or an address that Detectron2 fetches. config_file: a family of transfer/configs or a YAML file;
    None: the config.yaml of the run, or beside the file. overrides: KEY VALUE words. class_names: of a detector that holds none.
    """
    weights, notes = _find_weights(where)
    config_path = config_file or _config_beside(where, weights)
    words = ("MODEL.WEIGHTS", weights, *_without_weights(overrides))
    options = RunOptions(config_file=str(config_path), overrides=words, eval_only=True)
    asked, _, applied = ask_config(options)
    _check_kind(asked)
    asked.SEED = max(asked.SEED, 0)  # nothing is drawn; so none is asked for
    fetch_weights(weights)
    plan = _plan(asked, where)
    names, warnings = _class_names(plan, asked, class_names, given=frozenset(overrides[::2]))
    counted = _fit_classes(asked, names, given=frozenset(overrides[::2]), by_file=config_file is not None)
    config, set_here = resolve_config(asked, given=frozenset(overrides[::2]))
    verify_fits(plan, config)
    model = DetectionTrainer.build_model(config)  # as an evaluation builds it, so that the values are the same
    SafeCheckpointer(model).load(plan.weights, checkpointables=[])
    proof = verify_loaded(plan, model)
    device = tuple(note for note in set_here if "CUDA" in note)
    return TrainedDetector(
        model=model.eval().requires_grad_(False),
        config=config,
        class_names=names,
        category_ids=_category_ids(config, names),
        weights=plan.weights,
        sha256=None if "://" in plan.weights else file_sha256(Path(plan.weights)),
        skeleton=_skeleton(config),
        notes=(*notes, *applied, *counted, proof, *device),
        warnings=tuple(warnings),
    )


def _find_weights(where: str) -> tuple[str, tuple[str, ...]]:
    """The weights that RUN_OR_WEIGHTS means ("" = the newest checkpoint of the folder), and a sentence where there is a choice."""
    if "://" in where:
        return where, ()
    path = Path(where).expanduser()
    if path.is_file():
        return str(path), ()
    if not path.is_dir():
        raise CheckpointError(
            f"nothing at {where}: expected the output folder of tools/train_net.py, or the weight file of a detector"
        )
    if not (path / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{where} holds no {CONFIG_FILE}: expected the output folder of tools/train_net.py, or the weight file of a detector "
            "with --config-file"
        )
    best = path / BEST_WEIGHTS
    notes = (f"the run's best checkpoint by test AP is {best}: pass that file to use it",) if best.is_file() else ()
    final = path / FINAL_WEIGHTS
    if final.is_file():
        return str(final), notes
    there = {file.name for file in path.glob("model_*.pth")}
    if there == {BEST_WEIGHTS}:
        raise CheckpointError(f"{where} holds no checkpoint of a detector but its best one: pass {best} to use that")
    if not there:
        raise CheckpointError(
            f"{where} holds no checkpoint of a detector (model_*.pth): expected an output folder of tools/train_net.py whose training "
            "has saved one"
        )
    return "", (f"{where} holds no {FINAL_WEIGHTS}, the run has not ended: its newest checkpoint is used", *notes)


def _config_beside(where: str, weights: str) -> Path:
    """The config.yaml of a run, or the one beside a weight file."""
    folder = Path(where).expanduser() if not weights else Path(weights).parent
    if "://" not in weights and (folder / CONFIG_FILE).is_file():
        return folder / CONFIG_FILE
    raise ConfigError(
        f"nothing says which network {where} belongs to: no {CONFIG_FILE} lies beside it. Pass --config-file with a family of "
        "transfer/configs (coco/R_50_FPN_1x.yaml) or the YAML file that it was trained with"
    )


def _without_weights(overrides: Sequence[str]) -> tuple[str, ...]:
    if len(overrides) % 2:
        raise ConfigError(f"--opts: expected pairs KEY VALUE, found {len(overrides)} words: {' '.join(overrides)}")
    if "MODEL.WEIGHTS" in overrides[::2]:
        raise ConfigError("--opts MODEL.WEIGHTS: the weights are the first argument; leave the key out")
    return tuple(overrides)


def _check_kind(config: CfgNode) -> None:
    """Refuse what returns no upright boxes with classes. Raises ConfigError."""
    kind = config.MODEL.META_ARCHITECTURE
    if kind in NO_INSTANCES:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {kind} returns {NO_INSTANCES[kind]}, no instances; expected a detector: GeneralizedRCNN, "
            "RetinaNet or PanopticFPN (its instances)"
        )
    for name in (config.MODEL.PROPOSAL_GENERATOR.NAME, config.MODEL.ROI_HEADS.NAME):
        if name in ROTATED:
            raise ConfigError(
                f"{name} predicts rotated boxes, which need Detectron2's compiled operators and have no place in a COCO file; "
                "expected a detector of upright boxes"
            )


def _plan(config: CfgNode, where: str) -> WeightsPlan:
    """The plan of an evaluation: of the weights as named, or of the newest checkpoint of an unfinished run."""
    if config.MODEL.WEIGHTS:
        return plan_weights(config, eval_only=True, resume=False, trust=False)
    config.OUTPUT_DIR = str(Path(where).expanduser())
    return plan_weights(config, eval_only=True, resume=True, trust=False)


def _num_classes(config: CfgNode) -> tuple[str, int]:
    key = CLASS_KEYS[config.MODEL.META_ARCHITECTURE == "RetinaNet"]
    return key, int(config.MODEL[key.split(".")[1]].NUM_CLASSES)


def _class_names(
    plan: WeightsPlan, config: CfgNode, asked: tuple[str, ...] | None, *, given: frozenset[str]
) -> tuple[tuple[str, ...], list[str]]:
    """The names, and warnings: the checkpoint's own, else --classes, else those of the built-in data set that the
    configuration names, else numbers."""
    known = plan.class_names
    if known and asked and known != asked:
        raise ConfigError(
            f"--classes {','.join(asked)}, but the classes of {plan.weights} are {','.join(known)}; leave --classes out"
        )
    if known:
        return known, []
    key, count = _num_classes(config)
    if asked:
        if len(asked) != count and key in given:
            raise ConfigError(f"--classes names {len(asked)} classes, {key} is {count}")
        return asked, [f"{plan.weights} names no classes: ASSUMED, from --classes, in this order"]
    for name in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
        things = tuple(MetadataCatalog.get(name).get("thing_classes", ())) if name in MetadataCatalog.list() else ()
        if len(things) == count:
            return things, [f"{plan.weights} names no classes: ASSUMED to be those of {name}, in its order"]
    names = tuple(f"class {number}" for number in range(1, count + 1))
    return names, [f"{plan.weights} names no classes, they are numbered: pass --classes NAMES or FILE"]


def _fit_classes(config: CfgNode, names: Sequence[str], *, given: frozenset[str], by_file: bool) -> tuple[str, ...]:
    """Give a family, whose number of classes is that of its own data, the detector's."""
    key, count = _num_classes(config)
    if count == len(names):
        return ()
    if key in given or not by_file:
        raise ConfigError(f"{key} is {count}, but the detector's classes are {len(names)}: {', '.join(names)}")
    config.MODEL[key.split(".")[1]].NUM_CLASSES = len(names)
    return (f"{key} {len(names)}, as the detector has classes",)


def _category_ids(config: CfgNode, names: tuple[str, ...]) -> tuple[int, ...]:
    """COCO's own numbers for COCO's own classes, so that the results fit its annotations; else from 1 on."""
    for dataset in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(dataset) if dataset in MetadataCatalog.list() else None
        ids = metadata.get("thing_dataset_id_to_contiguous_id") if metadata is not None else None
        if ids and metadata is not None and tuple(metadata.thing_classes) == names:
            return tuple(sorted(ids, key=ids.__getitem__))
    return tuple(range(1, len(names) + 1))


def _skeleton(config: CfgNode) -> tuple[tuple[int, int], ...]:
    """Of the keypoints of a built-in data set."""
    if not config.MODEL.KEYPOINT_ON:
        return ()
    for dataset in (*config.DATASETS.TEST, *config.DATASETS.TRAIN, "keypoints_coco_2017_val"):
        metadata = MetadataCatalog.get(dataset) if dataset in MetadataCatalog.list() else None
        points = list(metadata.get("keypoint_names", ())) if metadata is not None else []
        if metadata is not None and len(points) == config.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS:
            rules = metadata.get("keypoint_connection_rules", ())
            return tuple((points.index(first), points.index(second)) for first, second, _ in rules)
    return ()
