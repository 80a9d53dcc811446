"""A multi-label SVM readout from request to record.

In: `SvmRequest` (weights, SPECs of training and test images), an output directory or None. Out: the record, with the figures
svm/mAP_area and svm/mAP_11_points (percent, the mean over classes) and each class in `details`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.base.atomic import hold_folder
from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import RECORD, DataRecord, OpenRecord, Record
from pretrain.base.signals import ending_on_sigterm
from pretrain.config import to_plain
from pretrain.data.cache import cache_dir
from pretrain.data.source import ImageSource
from transfer.readout.feature_cache import CACHE, CENTRE, FeatureCache, encoding_settings, trunk_figures
from transfer.readout.features import FrozenEncoder, load_frozen_encoder
from transfer.readout.linear import encoder_stands_still
from transfer.readout.run import NOT_EXPERIMENT, Weights, already_finished, begin_record
from transfer.readout.svm_config import SvmConfig

if TYPE_CHECKING:
    from transfer.data.records import DetectionData

METRIC = "mean AP of one linear SVM a class, %"


@dataclass(frozen=True)
class SvmRequest:
    """What is asked for. train_data, test_data: SPECs, as tools/train_net.py takes them. The rest: as `FastRequest`."""

    weights: str
    train_data: str
    test_data: str
    config: SvmConfig
    init: str | None
    branch: str | None
    command: str
    features: Path | None = None


@dataclass(frozen=True)
class _Split:
    """What is classified. source: the images, in the order of the records."""

    data: DetectionData
    source: ImageSource
    record: DataRecord


def run_svm_readout(request: SvmRequest, output_dir: Path | None, *, announce: Callable[[str], None]) -> Record:
    """The whole readout; returns its record, which is written if there is an `output_dir`.

    A finished equal run in `output_dir` is returned as it is. Raises ConfigError/DataError/CheckpointError before the encoder runs
    for anything that cannot work.
    """
    from transfer.readout.svm import fitting_classes, image_labels

    config = request.config
    with nullcontext() if output_dir is None else hold_folder(output_dir, own=(RECORD,)):
        train, test = (_read(spec, announce) for spec in (request.train_data, request.test_data))
        both = set(train.source.paths) & set(test.source.paths)
        if both:
            raise DataError(f"{len(both)} images are in the training and in the test data, for instance {min(both)}")
        labels = tuple(image_labels(split.data, train.data.class_names) for split in (train, test))
        fitting_classes(labels[0], train.data.class_names, config.folds)  # refused before anything is encoded
        encoder = load_frozen_encoder(request.weights, config, branch=request.branch)
        begun = _begun(request, encoder, train, test)
        finished = already_finished(output_dir, begun, announce)
        if finished is not None:
            return finished
        with ending_on_sigterm(), OpenRecord(output_dir and output_dir / RECORD, begun) as record:
            figures, details = _measure(request, encoder, (train, test), labels, announce)
            return record.finish(
                figures, cost=record.spend(images=len(train.source)), details={**begun.details, **details}
            )


def _read(spec: str, announce: Callable[[str], None]) -> _Split:
    from transfer.data.fingerprint import fingerprint
    from transfer.data.fractions import image_folder, relative_names
    from transfer.data.spec import parse_spec, read_data

    parsed = parse_spec(spec)
    if parsed.joined:
        raise ConfigError(f"data {spec!r}: expected one split (voc:ROOT:SPLIT), found several joined by +")
    data = read_data(parsed)
    for note in data.notes:
        announce(f"{spec}: {note}")
    names = relative_names([record["file_name"] for record in data.records])
    source = ImageSource(image_folder(data), names)
    announce(f"{spec}: {len(source)} images, {len(data.class_names)} classes")
    return _Split(data, source, DataRecord(spec, fingerprint(data.records, data.class_names), len(source)))


def _begun(request: SvmRequest, encoder: FrozenEncoder, train: _Split, test: _Split) -> Record:
    plain = to_plain(request.config)
    return begin_record(
        experiment={"svm": {key: value for key, value in plain.items() if key not in NOT_EXPERIMENT}},
        config=plain,
        seed=request.config.seed,
        weights=Weights(request.weights, request.init, request.branch),
        command=request.command,
        encoder=encoder,
        data={"train": train.record, "test": test.record},
        class_names=train.data.class_names,
        metric=METRIC,
        protocol={
            "name": f"one linear SVM a class, C of {len(request.config.costs)} by {request.config.folds}-fold cross-validation",
            "is_paper": False,
            "views": "centre",
            "encoder_precision": encoder.precision.name,
        },
    )


def _measure(
    request: SvmRequest,
    encoder: FrozenEncoder,
    splits: tuple[_Split, _Split],
    labels: tuple[Any, ...],
    announce: Callable[[str], None],
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """(figures, details)."""
    from transfer.readout.svm import fit_classes, unit_length

    config, settings = request.config, encoding_settings(request.config)
    with encoder_stands_still(encoder.module) as hash_of:
        cache = FeatureCache(request.features or cache_dir(CACHE), encoder, hash_of(), settings, announce)
        trunk = trunk_figures(encoder, splits[1].source, settings, announce)
        tables = [
            cache.features(split.source, CENTRE, title=f"{role} images").numpy()
            for role, split in zip(("training", "test"), splits, strict=True)
        ]
    train, test = (unit_length(table) if config.normalize else table.astype("float64") for table in tables)
    classes = fit_classes(train, labels[0], test, labels[1], splits[0].data.class_names, config, announce=announce)
    shown = [result for result in classes if result.ap_area is not None]
    if not shown:
        raise DataError(f"{request.test_data}: no test image shows a class of the training images")
    figures: dict[str, float | None] = {
        "svm/mAP_area": statistics.fmean(result.ap_area or 0.0 for result in shown),
        "svm/mAP_11_points": statistics.fmean(result.ap_11_points or 0.0 for result in shown),
    }
    return figures, {
        "classes": [result.to_dict() for result in classes],
        "costs": list(config.costs),
        "classes_averaged": len(shown),
        "classes_left_out": sorted(set(splits[0].data.class_names) - {result.name for result in classes}),
        "features": trunk,
        "encoder": {"unchanged": True, "state_sha256": hash_of()},
    }
