"""A user's own detection data, without code: SPEC text -> validated records -> names that Detectron2 knows.

In: `coco:ANNOTATIONS.json:IMAGE_DIR` or `voc:ROOT:SPLIT`. Out: data sets registered in Detectron2's catalogs, class names
read from the data, or a DataError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import ConfigError, DataError
from transfer.data.coco import read_coco
from transfer.data.image_checks import check_images
from transfer.data.problems import ReadOptions, read_strictly
from transfer.data.records import DetectionData, with_class_order
from transfer.data.voc import read_voc

FORMS = "coco:ANNOTATIONS.json:IMAGE_DIR or voc:ROOT:SPLIT"


@dataclass(frozen=True)
class DataSpec:
    """Where one split lies.

    kind: layout of the annotations.
    source: annotation file (coco) or root folder (voc).
    detail: image folder (coco) or split name (voc).
    """

    kind: Literal["coco", "voc"]
    source: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.source}:{self.detail}"


def parse_spec(text: str) -> DataSpec:
    """Read a SPEC. Raises ConfigError that shows both forms."""
    kind, _, rest = text.partition(":")
    source, _, detail = rest.rpartition(":")
    if kind not in ("coco", "voc") or not source or not detail:
        raise ConfigError(f"data {text!r}: expected {FORMS}")
    return (
        DataSpec("coco", Path(source).expanduser(), str(Path(detail).expanduser()))
        if kind == "coco"
        else DataSpec("voc", Path(source).expanduser(), detail)
    )


def read_data(spec: DataSpec) -> DetectionData:
    """Read, validate and compare with the image files. Raises DataError; nothing is registered."""
    if spec.kind == "coco":
        image_dir = Path(spec.detail)
        if not image_dir.is_dir():
            raise DataError(f"no image folder at {image_dir} (from {spec}; expected {FORMS})")
        data = read_coco(spec.source, image_dir)
    else:
        if not spec.source.is_dir():
            raise DataError(f"no folder at {spec.source} (from {spec}; expected {FORMS})")
        data = read_voc(spec.source, spec.detail)
    if not data.num_objects:
        raise DataError(f"{spec}: no labelled object in {len(data.records)} images")
    data, notes = read_strictly(check_images(data, str(spec), ReadOptions()), str(spec))
    return replace(data, notes=(*data.notes, *notes))


@dataclass(frozen=True)
class PreparedData:
    """The data of a run; a split that is not used is None.

    class_names: of both splits, in the order of the category ids.
    train_name, test_name: under which Detectron2's catalogs know them.
    train, test: what was read.
    """

    class_names: tuple[str, ...]
    train_name: str | None
    test_name: str | None
    train: DetectionData | None
    test: DetectionData | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the readers repaired."""
        return tuple(note for data in (self.train, self.test) if data is not None for note in data.notes)


def prepare_data(
    train: DataSpec | None, test: DataSpec | None, class_names: Sequence[str] | None = None
) -> PreparedData:
    """Read both splits, bring them to one class order and register them with Detectron2.

    The order is the training data's; without training data it is class_names (of the detector to be evaluated), where given.
    """
    train_data = read_data(train) if train else None
    test_data = read_data(test) if test else None
    reference = train_data or test_data
    assert reference is not None, "one of the two splits must be given"
    names = tuple(class_names) if class_names and train_data is None else reference.class_names
    direct = test_data is not None and test_data.class_names == names  # the user's own file can be evaluated against
    if test_data is not None:
        test_data = with_class_order(test_data, names, str(test))
    return PreparedData(
        names,
        _register(train, train_data, "train", names, direct=False),
        _register(test, test_data, "test", names, direct=direct),
        train_data,
        test_data,
    )


def _register(
    spec: DataSpec | None, data: DetectionData | None, role: str, names: Sequence[str], *, direct: bool
) -> str | None:
    if spec is None or data is None:
        return None
    name = f"own_{role}_{hashlib.sha256(str(spec).encode()).hexdigest()[:8]}"
    if name in DatasetCatalog:  # the same data a second time in one process
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    records = list(data.records)
    DatasetCatalog.register(name, lambda: records)
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=list(names), spec=str(spec), evaluator_type=f"own_{spec.kind}")
    metadata.set(can_evaluate_masks=data.can_evaluate_masks)
    if spec.kind == "voc":
        # The 11-point metric belongs to VOC 2007; every later year, and other people's data, integrates the whole curve.
        metadata.set(year=2007 if spec.source.resolve().name == "VOC2007" else 2012)
    elif direct and data.complete_coco is not None:
        path, ids = data.complete_coco
        metadata.set(
            json_file=str(path), thing_dataset_id_to_contiguous_id={key: index for index, key in enumerate(ids)}
        )
    return name
