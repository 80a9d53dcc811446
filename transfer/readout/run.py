"""A readout from request to record: what is asked, the output directory, what is written.

In: `Request`, an output directory or None. Out: the record, which lies in the directory from the first epoch on. A finished equal
readout is not run again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.base.atomic import hold_folder, write_text
from pretrain.base.errors import ConfigError
from pretrain.base.record import RECORD, DataRecord, OpenRecord, Record, experiment_hash, find_finished
from pretrain.base.same_run import require_same
from pretrain.base.signals import ending_on_sigterm
from pretrain.config import to_plain
from transfer.conversion.initialisation import initialisation_of
from transfer.readout.config import NOT_PROTOCOL, PREDICTIONS, LinearConfig
from transfer.readout.features import FrozenEncoder, LabelledImages, few_per_class, load_frozen_encoder, load_splits
from transfer.readout.linear import MAX_TOP, encoder_stands_still, measure

METRIC = "top-1 of a linear classifier, %"
ABSENT = (
    ("fraction", None),
    ("classifier_start", "torch"),
)  # keys that older records lack, with the value that says the same
NOT_EXPERIMENT = NOT_PROTOCOL  # the precision that ran is named apart
OLD_RESULT, OLD_STARTED = "linear_result.json", "linear_started.json"  # in place of the record


@dataclass(frozen=True)
class Request:
    """What is asked for.

    weights: a checkpoint's path, or `random:ARCH`.
    data: folder with train/CLASS/ and val/CLASS/.
    config: of the readout.
    init: name of the initialisation in results; None = what the weights say.
    branch: of a checkpoint that has several; None = its layout's own choice.
    command: the exact command, for the record.
    skip_unreadable: leave out images that cannot be read.
    """

    weights: str
    data: Path
    config: LinearConfig
    init: str | None
    branch: str | None
    command: str
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Splits:
    """What is read out. available: training images before some of each class were drawn, the whole split."""

    train: LabelledImages
    val: LabelledImages
    available: LabelledImages


def run_readout(request: Request, output_dir: Path | None, *, announce: Callable[[str], None]) -> Record:
    """The whole readout; returns its record, which is written if there is an `output_dir`.

    A finished equal run in `output_dir` is returned as it is. Raises ConfigError/DataError/CheckpointError before the
    encoder runs for anything that cannot work, and ConfigError for a readout that diverges (the record says so then).
    """
    config = request.config
    own = (RECORD, PREDICTIONS, OLD_RESULT, OLD_STARTED)
    with nullcontext() if output_dir is None else hold_folder(output_dir, own=own):
        available, val = load_splits(request.data, skip_unreadable=request.skip_unreadable, announce=announce)
        train = available
        drawn = config.fraction if config.images_per_class is None else config.images_per_class
        if drawn is not None:
            train = few_per_class(available, drawn, seed=config.seed)
        images = Splits(train, val, available)
        encoder = load_frozen_encoder(request.weights, config, branch=request.branch)
        begun = new_record(request, encoder, images)
        older = None if output_dir is None else _finished_before(output_dir, request, encoder, images, begun)
        finished = already_finished(output_dir, begun, announce, older=older)
        if finished is not None:
            return finished
        if output_dir is not None:
            (output_dir / OLD_STARTED).unlink(missing_ok=True)
        with ending_on_sigterm(), OpenRecord(output_dir and output_dir / RECORD, begun) as record:
            num_classes = len(train.classes)
            announce(f"{len(train)} training and {len(val)} validation images, {num_classes} classes")
            announce(f"readout: {config.protocol_name()}")
            if num_classes < MAX_TOP:
                announce(f"{num_classes} classes: what is called top-5 is top-{num_classes} here, 100 % by definition")
            with encoder_stands_still(encoder.module) as hash_of:
                trained = measure(encoder, train, val, config, announce=announce)
            history = trained.history
            if output_dir is not None:  # before the record: a finished readout has them
                write_predictions(output_dir / PREDICTIONS, val, trained.best)
            return record.finish(
                {name: history[-1][name] for name in ("top1", "top5")},
                history=history,
                cost=record.spend(images=(config.cached_views or config.epochs) * len(train)),
                details={**begun.details, "encoder": {"unchanged": True, "state_sha256": hash_of()}},
            )


def already_finished(
    output_dir: Path | None, begun: Record, announce: Callable[[str], None], *, older: Record | None = None
) -> Record | None:
    """The equal readout that is finished in the folder, which is announced; None where none is, or without a folder.

    older: what an older version finished there. Raises ConfigError for a finished readout that is another one.
    """
    found = None if output_dir is None else find_finished(output_dir / RECORD, begun) or older
    if found is not None:
        announce(f"{output_dir} is finished already; nothing to do")
    return found


def write_predictions(path: Path, val: LabelledImages, best: Tensor) -> None:
    """image, label, predicted, in_top5 (1 or 0): which images are right, for people and for intervals over test images.

    best: (N, k) classes of each image, the likeliest first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "predicted", "in_top5"))
    for name, label, found in zip(val.source.names, val.labels.tolist(), best.tolist(), strict=True):
        writer.writerow((name, val.classes[label], val.classes[found[0]], int(label in found)))
    write_text(path, text.getvalue())


def new_record(request: Request, encoder: FrozenEncoder, images: Splits) -> Record:
    """What is known of a readout before its first epoch."""
    plain = to_plain(request.config)
    return begin_record(
        experiment={
            "config": {
                key: value for key, value in plain.items() if key not in NOT_EXPERIMENT and (key, value) not in ABSENT
            }
        },
        config=plain,
        seed=request.config.seed,
        weights=Weights(request.weights, request.init, request.branch),
        command=request.command,
        encoder=encoder,
        data=splits_record(request.data, images),
        class_names=images.train.classes,
        metric=METRIC,
        protocol=_protocol(request.config, precision=encoder.precision.name, num_classes=len(images.train.classes)),
    )


@dataclass(frozen=True)
class Weights:
    """The weights of a request. text: as given. init, branch: as `Request` has them."""

    text: str
    init: str | None
    branch: str | None


def splits_record(data: Path, images: Splits) -> dict[str, DataRecord]:
    """Class folders as a record names them: the whole split's content, whatever was drawn of it."""
    return {
        role: DataRecord(str(data / folder), whole.source.fingerprint(), len(part), len(whole))
        for role, folder, part, whole in (
            ("train", "train", images.train, images.available),
            ("test", "val", images.val, images.val),
        )
    }


def begin_record(
    *,
    experiment: dict[str, Any],
    config: dict[str, Any],
    seed: int,
    weights: Weights,
    command: str,
    encoder: FrozenEncoder,
    data: dict[str, DataRecord],
    class_names: tuple[str, ...],
    metric: str,
    protocol: dict[str, Any],
) -> Record:
    """The record of any readout at its start; encoder, precision and data join `experiment`."""
    start = initialisation_of(weights.text, asked=weights.init, branch=weights.branch, random_seed=seed)
    return Record(
        kind="readout",
        experiment={
            **experiment,
            "arch": encoder.module.arch,
            "precision": encoder.precision.name,
            "data": {role: split.fingerprint for role, split in data.items()},
        },
        config=config,
        seeds={"run": seed, "pretraining": (start.pretraining or {}).get("seed")},
        commands=(command,),
        data=data,
        class_names=class_names,
        metric=metric,
        initialisation=start,
        details={
            "arch": encoder.module.arch,
            "branch": weights.branch,
            "protocol": protocol,
            "input": encoder.contract.to_dict(),
        },
    )


def _protocol(config: LinearConfig, *, precision: str, num_classes: int) -> dict[str, Any]:
    different = config.differences_from_paper()
    views = "a new view each epoch" if config.cached_views == 0 else f"{config.cached_views} cached views an image"
    return {
        "name": config.protocol_name(),
        "is_paper": not different,
        "differs": list(different),
        "views": views,
        "encoder_precision": precision,
        "top5_k": min(MAX_TOP, num_classes),
    }


def _finished_before(
    output_dir: Path, request: Request, encoder: FrozenEncoder, images: Splits, begun: Record
) -> Record | None:
    """`begun` with the figures of an equal readout that an older version finished in `output_dir`; None where there is none.

    Raises ConfigError for a finished readout that is another one, or of which that cannot be told.
    """
    path = output_dir / OLD_RESULT
    if not path.exists() or (output_dir / RECORD).exists():
        return None
    now = {
        "weights": encoder.sha256 or request.weights,
        "branch": request.branch,
        "config": {key: value for key, value in begun.config.items() if key not in ("num_workers", "device")},
        "data": {"train": images.train.source.fingerprint(), "val": images.val.source.fingerprint()},
    }
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        there = dict(result["identity"])
        now["init"] = there["init"] if request.init is None else request.init
        history = tuple(result["history"])
        figures = {name: float(result[name]) for name in ("top1", "top5")}
        details = {**begun.details, "encoder": dict(result["encoder"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is not a readout's result; name another output directory") from None
    require_same(there, now, place=output_dir, what="finished readout")
    code = experiment_hash(begun.experiment)
    return replace(begun, status="done", hash=code, figures=figures, history=history, details=details)
