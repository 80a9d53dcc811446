"""A user's own detection data, without code: SPEC text -> validated records -> names that Detectron2 knows.

In: one SPEC or several joined by "+". Out: data sets registered in Detectron2's catalogs, class names read from the data, or a
DataError.

| SPEC                              | what                                                  | metric                          |
|-----------------------------------|-------------------------------------------------------|---------------------------------|
| coco:ANNOTATIONS.json:IMAGE_DIR   | a COCO instances file and the folder of its images    | COCO AP                         |
| voc:ROOT:SPLIT                    | a Pascal VOC folder and a file of ImageSets/Main      | VOC AP, area under the curve    |
| voc07:ROOT:SPLIT                  | the same                                              | VOC AP, 11 points               |
| yolo:DATA.yaml:SPLIT              | a YOLO data file and one of its splits                | COCO AP                         |
| voc:A:trainval+voc:B:trainval     | several read as one                                   | that of its parts, all the same |

Joined parts are merged by class name: the first part's order, then the new names of the next ones. Image ids that occur in two
parts are replaced by numbers, in all of them. The metric is never guessed from the name of a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import DataRecord
from transfer.data.coco import read_coco
from transfer.data.fingerprint import fingerprint, joined_fingerprint
from transfer.data.fractions import read_draw
from transfer.data.image_checks import check_images
from transfer.data.problems import DEFAULTS, ReadOptions, read_strictly
from transfer.data.records import DetectionData, with_class_order
from transfer.data.text_files import read_lines
from transfer.data.voc import read_voc
from transfer.data.yolo import read_yolo

Kind = Literal["coco", "voc", "voc07", "yolo"]
FORMS = (
    "coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT, voc07:ROOT:SPLIT (11-point metric) or yolo:DATA.yaml:SPLIT; several are "
    "joined by +, each with its kind: voc:A:trainval+voc:B:trainval"
)
COCO_METRIC = "COCO AP, IoU .50:.95"
VOC_METRIC = "VOC AP, area under the curve"
VOC_2007_METRIC = "VOC AP, 11 points (2007)"
METRICS = {"coco": COCO_METRIC, "voc": VOC_METRIC, "voc07": VOC_2007_METRIC, "yolo": COCO_METRIC}
JOINT = re.compile(rf"\+(?=(?:{'|'.join(get_args(Kind))}):)")


@dataclass(frozen=True)
class DataSpec:
    """Where one split lies.

    kind: layout of the annotations, and which metric.
    source: annotation file (coco), root folder (voc) or YAML file (yolo).
    detail: image folder (coco) or split name (voc, yolo).
    joined: the further parts of a split that is read from several places.
    """

    kind: Kind
    source: Path
    detail: str
    joined: tuple[DataSpec, ...] = ()

    def __str__(self) -> str:
        return "+".join(f"{part.kind}:{part.source}:{part.detail}" for part in self.parts)

    @property
    def parts(self) -> tuple[DataSpec, ...]:
        """Each a split of one place."""
        return (replace(self, joined=()), *self.joined)

    @property
    def metrics(self) -> list[str]:
        """What the parts ask for, each once."""
        return sorted({METRICS[part.kind] for part in self.parts})


def parse_spec(text: str) -> DataSpec:
    """Read a SPEC. Raises ConfigError that shows all forms."""
    parts: list[DataSpec] = []
    rest: str | None = None
    for piece in JOINT.split(text):
        rest = piece if rest is None else f"{rest}+{piece}"
        part = _parse_part(rest)
        if part is not None:  # else the + belongs to a name
            parts.append(part)
            rest = None
    if rest is not None:
        raise ConfigError(f"data {text!r}: expected {FORMS}")
    return replace(parts[0], joined=tuple(parts[1:]))


def _parse_part(text: str) -> DataSpec | None:
    kind, _, rest = text.partition(":")
    source, _, detail = rest.rpartition(":")
    if kind not in get_args(Kind) or not source or not detail:
        return None
    try:
        path = Path(source).expanduser()
        detail = str(Path(detail).expanduser()) if kind == "coco" else detail
    except RuntimeError as error:
        raise ConfigError(f"data {text!r}: {error}") from None
    return DataSpec(kind, path, detail)  # type: ignore[arg-type]


def parse_class_names(text: str) -> tuple[str, ...]:
    """The classes of --classes: names with commas between them, or a text file with one a line. Raises ConfigError."""
    try:
        path = Path(text).expanduser()
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError):  # longer than a file name can be; ~ and a name that no user has
        path, is_file = Path(text), False
    try:
        names = [line for _, line in read_lines(path)] if is_file else [name.strip() for name in text.split(",")]
    except DataError as error:
        raise ConfigError(f"--classes: {error}") from None
    if not names or not all(names):
        raise ConfigError(
            f"--classes {text!r:.80}: expected names with commas between them, or a text file with one a line"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"--classes {text!r:.80}: {twice!r} is named twice")
    if len(names) == 1 and ("/" in text or text.endswith(".txt")) and not is_file:
        raise ConfigError(f"--classes {text}: no such file; expected class names, or a text file with one a line")
    return tuple(names)


def read_data(spec: DataSpec, options: ReadOptions = DEFAULTS) -> DetectionData:
    """Read, validate and compare with the image files. Raises DataError; nothing is registered."""
    return _join(_read_parts(spec, options), spec, options)


def _read_parts(spec: DataSpec, options: ReadOptions) -> list[DetectionData]:
    parts = [_read_part(part, options) for part in spec.parts]
    if not any(data.num_objects for data in parts):
        notes = "".join(
            f"\n  {note}" for data in parts for note in data.notes
        )  # what became of the objects, where there were any
        raise DataError(f"{spec}: no labelled object in {sum(len(data.records) for data in parts)} images{notes}")
    return parts


def _read_part(spec: DataSpec, options: ReadOptions) -> DetectionData:
    if spec.kind == "coco":
        image_dir = Path(spec.detail)
        if not image_dir.is_dir():
            raise DataError(f"no image folder at {image_dir} (from {spec}; expected {FORMS})")
        data = read_coco(spec.source, image_dir, options)
    elif spec.kind == "yolo":
        if not spec.source.exists():
            raise DataError(f"no file at {spec.source} (from {spec}; expected {FORMS})")
        data = read_yolo(spec.source, spec.detail, options)
    else:
        if not spec.source.is_dir():
            raise DataError(f"no folder at {spec.source} (from {spec}; expected {FORMS})")
        data = read_voc(spec.source, spec.detail, options)
        if spec.kind == "voc" and spec.source.resolve().name == "VOC2007":
            note = f"{spec}: measured by the {VOC_METRIC}; for the 11-point metric of 2007 write voc07:{spec.source}:{spec.detail}"
            data = replace(data, notes=(*data.notes, note))
    data, notes = read_strictly(check_images(data, str(spec), options), str(spec))
    return replace(data, notes=(*data.notes, *notes))


def _join(parts: Sequence[DetectionData], spec: DataSpec, options: ReadOptions) -> DetectionData:
    """Several parts as one split; see the module."""
    names = tuple(dict.fromkeys(name for data in parts for name in data.class_names))
    lower = {name.lower().strip(): name for name in names}
    alike = [(name, lower[name.lower().strip()]) for name in names if lower[name.lower().strip()] != name]
    if alike and options.class_names is None:
        pairs = ", ".join(f"{one!r} and {other!r}" for one, other in alike)
        both = ",".join(names)
        raise DataError(
            f"{spec}: class names differ in case alone: {pairs}; write them alike, or pass --classes {both!r:.400} if they are "
            "different classes"
        )
    if len(parts) == 1:
        return parts[0]
    seen: dict[str, int] = {}
    twice = [
        record["file_name"]
        for position, data in enumerate(parts)
        for record in data.records
        if seen.setdefault(os.path.realpath(record["file_name"]), position) != position
    ]
    if twice:
        raise DataError(f"{spec}: {len(twice)} images are in two parts, first {twice[0]}; leave them in one")
    records = [record for data in parts for record in with_class_order(data, names, str(spec)).records]
    if len({record["image_id"] for record in records}) < len(records):
        records = [{**record, "image_id": number} for number, record in enumerate(records, start=1)]
    notes = [note for data in parts for note in data.notes]
    for part, data in zip(spec.parts, parts, strict=True):
        absent = [name for name in names if name not in data.class_names]
        if absent:
            notes.append(
                f"{part}: does not name {', '.join(absent)}, which other parts do: is none of them in its images?"
            )
    kinds = {data.masks for data in parts if data.num_objects}
    return DetectionData(
        tuple(records),
        names,
        masks=kinds.pop() if len(kinds) == 1 else "some",
        bitmask=any(data.bitmask for data in parts),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class PreparedData:
    """The data of a run; a split that is not used is None.

    class_names: of both splits, in the order of the category ids.
    train_name, test_name: under which Detectron2's catalogs know them.
    train, test: what was read.
    data_records: role ("train", "test") -> the split as the record of a run names it.
    metric: what the figures on the test split are; None without one.
    """

    class_names: tuple[str, ...]
    train_name: str | None
    test_name: str | None
    train: DetectionData | None
    test: DetectionData | None
    data_records: Mapping[str, DataRecord]
    metric: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the readers repaired, in the training and in the test data."""
        splits = (("training data", self.train), ("test data", self.test))
        return tuple(f"{role}: {note}" for role, data in splits if data is not None for note in data.notes)


def prepare_data(
    train: DataSpec | None,
    test: DataSpec | None,
    class_names: Sequence[str] | None = None,
    *,
    options: ReadOptions = DEFAULTS,
) -> PreparedData:
    """Read both splits, bring them to one class order and register them with Detectron2.

    The order is that of `options.class_names` (--classes), else the training data's. Without training data it is class_names
    (of the detector to be evaluated), where given.
    """
    metric = _metric(test) if test else None
    parts = {
        role: (spec, _read_parts(spec, options))
        for role, spec in (("train", train), ("test", test))
        if spec is not None
    }
    data = {role: _join(read, spec, options) for role, (spec, read) in parts.items()}
    train_data, test_data = data.get("train"), data.get("test")
    reference = train_data or test_data
    assert reference is not None, "one of the two splits must be given"
    names = tuple(class_names) if class_names and train_data is None else reference.class_names
    direct = test_data is not None and test_data.class_names == names  # the user's own file can be evaluated against
    if test_data is not None:
        _require_counted_objects(test_data, test, metric)
        _refuse_unknown_classes(test_data, names, train, test)
        test_data = with_class_order(test_data, names, str(test))
    return PreparedData(
        names,
        _register(train, train_data, "train", names, direct=False),
        _register(test, test_data, "test", names, direct=direct),
        train_data,
        test_data,
        {role: _data_record(spec, read) for role, (spec, read) in parts.items()},
        metric,
    )


def _metric(test: DataSpec) -> str:
    """What a detector's figures on a split are. Raises ConfigError where its parts ask for several metrics."""
    if len(test.metrics) > 1:
        raise ConfigError(
            f"test data {test}: its parts ask for several metrics ({'; '.join(test.metrics)}); evaluate them one by one, or give "
            "all parts the same kind"
        )
    return test.metrics[0]


def _require_counted_objects(test_data: DetectionData, test: DataSpec | None, metric: str | None) -> None:
    """VOC's metrics leave difficult objects out: a split of those alone has no AP. Raises DataError before anything is trained."""
    things = [thing for record in test_data.records for thing in record["annotations"]]
    if metric in (VOC_METRIC, VOC_2007_METRIC) and things and all(thing.get("difficult", 0) for thing in things):
        raise DataError(
            f"{test}: all {len(things)} objects are marked difficult, and {metric} counts none of those; correct <difficult> in the XML "
            "files, or give other test data"
        )


def _refuse_unknown_classes(
    test_data: DetectionData, names: Sequence[str], train: DataSpec | None, test: DataSpec | None
) -> None:
    """Test classes that training does not know, as in a low-shot split: what to pass. Raises DataError."""
    unknown = [name for name in test_data.class_names if name not in names]
    if unknown and train is not None:
        both = ",".join((*names, *unknown))
        raise DataError(
            f"{test}: the classes {', '.join(unknown)} are not among those trained on, which are {', '.join(names)}; if the "
            f"training data have merely no object of them, pass --classes {both!r} (or a file with one a line); else training "
            "and test data must name the same classes"
        )


def _data_record(spec: DataSpec, parts: Sequence[DetectionData]) -> DataRecord:
    """The split as a record names it: its content, wherever it lies; of a fraction, what it was drawn from and how much."""
    prints = [fingerprint(data.records, data.class_names) for data in parts]
    draws = [
        read_draw(part.source, found) for part, found in zip(spec.parts, prints, strict=True) if part.kind == "coco"
    ]
    images = sum(len(data.records) for data in parts)
    if len(parts) == 1 and draws and draws[0] is not None:
        return DataRecord(str(spec), draws[0].identity, images, draws[0].num_available)
    return DataRecord(str(spec), joined_fingerprint(prints), images)


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
    metadata.set(thing_classes=list(names), spec=str(spec), can_evaluate_masks=data.can_evaluate_masks)
    if len(spec.metrics) == 1:
        metric = spec.metrics[0]
        metadata.set(metric=metric, evaluator_type="own_coco" if metric == COCO_METRIC else "own_voc")
    if direct and data.complete_coco is not None:
        path, ids = data.complete_coco
        numbers = {key: index for index, key in enumerate(ids)}
        metadata.set(json_file=str(path), thing_dataset_id_to_contiguous_id=numbers)
    return name
