"""Detection data as an expert would look at them before a run: every problem by file and object, counts, sizes.

In: a SPEC. Out: `DataReport`. The readers find what is wrong (coco.py, voc.py, yolo.py, image_checks.py: the same code that a run
reads with); here their problems get an id and a severity (CHECKS), and the data that could be read are looked at for what no
reader objects to. Bad content raises nothing: a file that cannot be read is a finding.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar, get_args

from pretrain.base.errors import DataError
from transfer.data import coco, voc, yolo
from transfer.data.doctor_content import (
    exif_findings,
    link_findings,
    name_variants,
    object_findings,
    unlisted_findings,
)
from transfer.data.exports import recognise
from transfer.data.findings import Finding, Severity
from transfer.data.image_checks import check_images, look_at_images
from transfer.data.problems import DEFAULTS, Problem, Problems, ReadOptions
from transfer.data.records import DetectionData
from transfer.data.spec import FORMS, DataSpec, Kind, parse_spec

SPEC_START = re.compile(rf"(?:{'|'.join(get_args(Kind))}):")
WORKING_SIZE = (800, 1333)  # px: Detectron2's default for the shorter side and the most for the longer one
TINY = 8.0  # px, root of the area at the working size: half a cell of C4's stride 16, two of FPN's finest level
SMALL, MEDIUM = 32.0**2, 96.0**2  # COCO's areas, here at the working size
FEW_OBJECTS = 10
TINY_OBJECTS = "data/tiny-objects"  # the one finding that depends on the working size
MANY_EMPTY = 0.5  # share of images without an object
T = TypeVar("T")

# id, severity where the readers repaired it (an error where they did not), pattern of "kind: found" or of a reader's refusal. The
# first that matches counts.
CHECKS: tuple[tuple[str, Severity, str], ...] = (
    # the file
    ("data/other-tool", "warning", r"\bthis is .*\(|not a COCO instances file|describes keypoints"),
    ("data/not-finite", "warning", r"is not a JSON number|(number|numbers).*found.*\b(nan|inf)\b|something else than numbers.*\b(nan|inf)"),
    ("data/not-json", "warning", r"is not JSON"),
    ("data/too-large-file", "warning", r"has \d+ bytes"),
    ("data/repeated-field", "warning", r"fields given twice"),
    ("data/xml-entity", "warning", r"declares a document type or an entity"),
    ("data/not-xml", "warning", r"is not XML"),
    ("data/encoding", "note", r"plain UTF-8|not text in|save it as UTF-8"),
    ("data/no-file", "warning", r"no annotation file|no file at|no folder at|no image folder|cannot read|is a folder or a device"),
    ("data/no-split", "warning", r"no split|list for one class|\.txt is empty|expected one image name a line"),
    ("data/layout", "warning", r"is not a VOC folder|is a folder; |YOLO data file|plain YAML|expected a folder, a text file|expected the data's folder"),
    ("data/classes-unreadable", "warning", r"names expected|class .* named twice|nc says"),
    ("data/no-objects", "warning", r"an empty list|no labelled object|none of \d+ images has a label"),
    # images
    ("data/path-escape", "warning", r"lead out of the image folder|leave the folder"),
    ("data/image-missing", "warning", r"images are missing|no image in |does not exist"),
    ("data/annotation-missing", "warning", r"annotations are missing"),
    ("data/image-ambiguous", "warning", r"fit several files|share one annotation|share one label file|no file can have"),
    ("data/image-name", "note", r"^image names (with|in|lead)|found by <filename>|paths of the YAML file"),
    ("data/image-too-large", "warning", r"megapixels"),
    ("data/image-truncated", "warning", r"lack their last bytes"),
    ("data/image-unreadable", "warning", r"images cannot be read"),
    ("data/exif-ignored", "warning", r"ignore the EXIF orientation"),
    ("data/image-size-exchanged", "warning", r"width and height are exchanged"),
    ("data/image-size", "warning", r"another size than their annotation"),
    ("data/no-image-size", "note", r"without (a|the) size|width and height expected positive|size expected positive"),
    ("data/no-image-name", "warning", r"without a file name"),
    ("data/no-labels", "note", r"without a label file"),
    ("data/labels-unused", "warning", r"label files without an image"),
    ("data/labels-unreadable", "warning", r"label files cannot be read|annotations cannot be read"),
    # ids
    ("data/duplicate-image", "warning", r"listed twice|image ids given twice|listed under several ids"),
    ("data/duplicate-annotation", "warning", r"annotations given twice|annotation ids given twice|lines are given twice"),
    ("data/duplicate-category", "warning", r"category ids given twice|categories of one name|have the name of a class"),
    ("data/bad-id", "note", r"ids that are no numbers|(id|category_id|image_id) is (not a|missing)|annotations without an id"),
    ("data/unlisted-image", "warning", r"images that are not listed"),
    ("data/unknown-class", "warning", r"category that is not listed|--classes does not name|class that names does not have"),
    # fields
    ("data/wrong-type", "note", r"entries that are not objects|written as text|decimal point|expected a (finite|whole) number|something else than numbers|neither 0 nor 1|empty or in words|expected 0 or 1|is not a number|names that are numbers|whose \w+ is not a whole number"),
    ("data/missing-field", "warning", r"is missing|missing or empty|without a name|wrong number of values"),
    ("data/no-box", "warning", r"annotations without a box"),
    # boxes
    ("data/box-negative", "warning", r"negative width|exchanged corners"),
    ("data/box-degenerate", "warning", r"boxes without width"),
    ("data/box-outside", "warning", r"wholly outside"),
    ("data/box-over-border", "warning", r"boxes over the border"),
    ("data/box-fractions", "note", r"fractions of a pixel"),
    ("data/box-convention", "warning", r"fractions of (their|the) image|boxes leave their image|have no area"),
    ("data/area", "warning", r"areas that no object has"),
    # masks
    ("data/bad-rle", "warning", r"run lengths that do not fit"),
    ("data/bad-polygon", "warning", r"polygons|four numbers or fewer|neither polygons"),
    ("data/no-mask", "note", r"objects without a mask"),
    # classes and crowds
    ("data/crowds", "note", r"iscrowd"),
    ("data/class-without-object", "note", r"(classes|categories) without an object"),
    ("data/class-group", "note", r"groups the others"),
    ("data/class-name", "note", r"spaces around"),
)  # fmt: skip
_COMPILED = tuple((identifier, severity, re.compile(pattern, re.DOTALL)) for identifier, severity, pattern in CHECKS)
OTHER = "data/other"  # what no row of CHECKS names; a test holds that no problem of the readers gets it


@dataclass(frozen=True)
class ClassSummary:
    """One class. objects: crowds left out. tiny, small, medium, large: how many, by area at the working size; median_size: root of
    the area there, px; None without an object."""

    name: str
    images: int
    objects: int
    tiny: int
    small: int
    medium: int
    large: int
    median_size: float | None


@dataclass(frozen=True)
class DataReport:
    """What was found in one split.

    findings: in the order of the file. data: what could be read; None where nothing could.
    empty: images without an object. crowds: regions marked iscrowd.
    """

    spec: str
    findings: tuple[Finding, ...]
    classes: tuple[ClassSummary, ...]
    images: int
    empty: int
    objects: int
    crowds: int
    data: DetectionData | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: without the data themselves, and without the findings."""
        counts = {name: getattr(self, name) for name in ("images", "empty", "objects", "crowds")}
        return {"spec": self.spec, **counts, "classes": [vars(summary) for summary in self.classes]}

    def table(self) -> str:
        """Counts and sizes a class, as text."""
        head = f"{self.images} images ({self.empty} without an object), {self.objects} objects, {self.crowds} crowd regions"
        width = max([5, *(len(summary.name[:30]) for summary in self.classes)])
        lines = [head, f"{'class':{width}}  images  objects   tiny  small  medium  large  median px"]
        for summary in self.classes:
            size = "-" if summary.median_size is None else f"{summary.median_size:.0f}"
            lines.append(
                f"{summary.name[:30]:{width}}  {summary.images:6}  {summary.objects:7}  {summary.tiny:5}  {summary.small:5}  "
                f"{summary.medium:6}  {summary.large:5}  {size:>9}"
            )
        return "\n".join(lines)


def diagnose_data(
    spec: str, *, options: ReadOptions = DEFAULTS, working_size: tuple[int, int] = WORKING_SIZE
) -> DataReport:
    """Everything that is wrong or doubtful in a split.

    working_size: to what the detector scales images, px: the shorter side, and at most the longer one. Raises ConfigError for a SPEC
    that is none; nothing for what lies there.
    """
    parts = [_diagnose_part(part, options) for part in parse_spec(spec).parts]
    findings = [finding for found, _ in parts for finding in found]
    read = [data for _, data in parts if data is not None]
    findings += name_variants([name for data in read for name in data.class_names], str(spec))
    data = _joined(read)
    if data is None:
        return DataReport(spec, tuple(findings), (), 0, 0, 0, 0, None)
    classes = _class_summaries(data, working_size)
    findings += [*_distribution_findings(data, classes, spec), *_tiny_findings(classes, spec, working_size)]
    crowds = sum(bool(thing.get("iscrowd")) for record in data.records for thing in record["annotations"])
    empty = len(data.records) - data.num_labelled_images
    return DataReport(spec, tuple(findings), classes, len(data.records), empty, data.num_objects, crowds, data)


def diagnose_splits(
    specs: Mapping[str, str | None], *, options: ReadOptions = DEFAULTS, working_size: tuple[int, int] = WORKING_SIZE
) -> tuple[dict[str, DataReport], list[Finding]]:
    """Role ("train", "test") -> SPEC, or None for a split that there is not. Reports by role; all findings: those of each split,
    then what does not fit between the two. Raises ConfigError for a SPEC that is none, before any is read."""
    given = {role: text for role, text in specs.items() if text is not None}
    for text in given.values():
        parse_spec(text)  # before minutes are spent on the others
    reports = {role: diagnose_data(text, options=options, working_size=working_size) for role, text in given.items()}
    return reports, joined_findings(reports)


def joined_findings(reports: Mapping[str, DataReport]) -> list[Finding]:
    """Those of each split, then what does not fit between the training and the test data."""
    findings = [finding for report in reports.values() for finding in report.findings]
    return findings + (compare_splits(reports["train"], reports["test"]) if len(reports) == 2 else [])


def at_working_size(report: DataReport, working_size: tuple[int, int]) -> DataReport:
    """What `diagnose_data` says at another size, without reading anything again."""
    if report.data is None:
        return report
    classes = _class_summaries(report.data, working_size)
    others = [finding for finding in report.findings if finding.id != TINY_OBJECTS]
    return replace(report, classes=classes, findings=(*others, *_tiny_findings(classes, report.spec, working_size)))


def listed_images(spec: str) -> list[str]:
    """The image files that a SPEC names, whatever is wrong in it. Raises ConfigError, and DataError where there are none."""
    paths: list[str] = []
    for part in parse_spec(spec).parts:
        data, problems = _run(_reader(part, DEFAULTS))
        found = [] if data is None else [record["file_name"] for record in data.records]
        if not found:
            raise DataError(f"{part}: no image is listed{''.join(f'; {problem.line()}' for problem in problems[-1:])}")
        paths += [os.path.abspath(path) for path in found]  # noqa: PTH100  # links stay
    return list(dict.fromkeys(paths))


def compare_splits(train: DataReport, test: DataReport) -> list[Finding]:
    """Classes of two splits that do not fit together."""
    if train.data is None or test.data is None:
        return []
    known, asked = train.data.class_names, test.data.class_names
    used = {summary.name for summary in test.classes if summary.objects}
    findings = []
    for name in (name for name in asked if name not in known):
        both = ",".join((*known, *(name for name in asked if name not in known)))
        findings.append(
            Finding(
                "data/test-class-unknown",
                "error" if name in used else "warning",
                f"{test.spec}: {name!r}",
                f"the test data have a class that the training data do not name ({', '.join(known)!s:.200})",
                f"name the classes alike; if the training data merely have no object of it, pass --classes {both!r:.400}",
            )
        )
    learned = {summary.name for summary in train.classes if summary.objects}
    for name in sorted(used & set(known) - learned):
        message = "the test data have objects of a class of which the training data have none: its AP will be 0"
        findings.append(
            Finding("data/test-class-unlearned", "warning", f"{train.spec}: {name!r}", message, "label some of them")
        )
    only_known = [name for name in known if name not in asked]
    return [
        *findings,
        *name_variants([*known, *asked], f"{train.spec} and {test.spec}", new=set(asked) - set(known), old=only_known),
    ]


# Reading


def _diagnose_part(spec: DataSpec, options: ReadOptions) -> tuple[list[Finding], DetectionData | None]:
    data, problems = _run(_reader(spec, options))
    findings = [_finding(problem, spec) for problem in problems]
    if data is None or not data.records:
        export = recognise(spec.source)
        if export is not None and not any(finding.id == "data/other-tool" for finding in findings):
            findings.append(Finding("data/other-tool", "error", str(spec.source), export.sentence(), export.instead))
        return findings, data
    looks = look_at_images(data, options)
    _, of_images = _run(check_images(data, str(spec), options, looks=looks))
    findings += [_finding(problem, spec) for problem in of_images]
    findings += exif_findings(data, looks, spec)
    findings += link_findings(data, spec)
    findings += unlisted_findings(data, spec)
    for record in data.records:
        findings += object_findings(record, data.class_names)
    return findings, data


def _reader(spec: DataSpec, options: ReadOptions) -> Problems[DetectionData]:
    if spec.kind == "coco":
        if not Path(spec.detail).is_dir():
            raise_later = DataError(f"no image folder at {spec.detail} (from {spec}; expected {FORMS})")
            return _refused(raise_later)
        return coco.file_problems(spec.source, image_dir=Path(spec.detail), options=options)
    if spec.kind == "yolo":
        return yolo.problems(spec.source, spec.detail, options=options)
    return voc.problems(spec.source, spec.detail, options=options)


def _refused(error: DataError) -> Problems[DetectionData]:
    raise error
    yield  # a reader is a generator


def _run(problems: Problems[T]) -> tuple[T | None, list[Problem]]:
    """A reader to its end: what it read (None where it refused all), and every problem; the refusal is the last."""
    found: list[Problem] = []
    while True:
        try:
            found.append(next(problems))
        except StopIteration as end:
            return end.value, found
        except DataError as error:
            return None, [*found, Problem("cannot be used", "", str(error), "", repaired=False)]


def _finding(problem: Problem, spec: DataSpec) -> Finding:
    text = f"{problem.kind}: {problem.found}"
    identifier, severity = next(
        ((identifier, severity) for identifier, severity, pattern in _COMPILED if pattern.search(text)),
        (OTHER, "warning"),
    )
    where = problem.where or str(spec)
    if str(spec.source) not in where and not os.path.isabs(where):  # noqa: PTH117
        where = f"{spec.source}: {where}"
    refusal = problem.kind == "cannot be used"
    message = problem.found if refusal else text
    return Finding(identifier, "error" if not problem.repaired else severity, where, message, problem.remedy)


def _joined(parts: Sequence[DetectionData]) -> DetectionData | None:
    """Several parts by class name, for counts alone."""
    if len(parts) < 2:
        return parts[0] if parts else None
    names = tuple(dict.fromkeys(name for data in parts for name in data.class_names))
    records = [
        {
            **record,
            "annotations": [
                {**thing, "category_id": names.index(data.class_names[thing["category_id"]])}
                for thing in record["annotations"]
            ],
        }
        for data in parts
        for record in data.records
    ]
    return replace(parts[0], records=tuple(records), class_names=names, complete_coco=None)


# Counts


def _scale(record: dict[str, Any], working_size: tuple[int, int]) -> float:
    short, long = sorted((record["width"], record["height"]))
    return min(working_size[0] / short, working_size[1] / long)


def _class_summaries(data: DetectionData, working_size: tuple[int, int]) -> tuple[ClassSummary, ...]:
    areas: dict[int, list[float]] = defaultdict(list)
    images: Counter[int] = Counter()
    for record in data.records:
        scale = _scale(record, working_size)
        things = [thing for thing in record["annotations"] if not thing.get("iscrowd") and thing["category_id"] >= 0]
        images.update({thing["category_id"] for thing in things})
        for thing in things:
            x1, y1, x2, y2 = thing["bbox"]
            areas[thing["category_id"]].append((x2 - x1) * (y2 - y1) * scale**2)
    return tuple(
        ClassSummary(
            name,
            images[number],
            len(areas[number]),
            sum(area < TINY**2 for area in areas[number]),
            sum(area < SMALL for area in areas[number]),
            sum(SMALL <= area < MEDIUM for area in areas[number]),
            sum(area >= MEDIUM for area in areas[number]),
            median(areas[number]) ** 0.5 if areas[number] else None,
        )
        for number, name in enumerate(data.class_names)
    )


def _distribution_findings(data: DetectionData, classes: Sequence[ClassSummary], spec: str) -> Iterator[Finding]:
    if not data.num_objects:
        message = f"no labelled object in {len(data.records)} images"
        yield Finding("data/no-objects", "error", spec, message, "export the data with their objects")
    empty = len(data.records) - data.num_labelled_images
    if empty:
        share = empty / len(data.records)
        message = f"{empty} of {len(data.records)} images ({share:.0%}) have no object: training leaves them out, AP counts what is found there"
        severity: Severity = "warning" if share > MANY_EMPTY else "note"
        yield Finding("data/empty-images", severity, spec, message, "annotate them, if there is something in them")
    for summary in classes:
        if 0 < summary.objects < FEW_OBJECTS:
            message = f"{summary.objects} objects: AP of this class says little, its interval is wide"
            where = f"{spec}: {summary.name!r}"
            yield Finding("data/few-objects", "note", where, message, "label more of them, or join classes")


def _tiny_findings(classes: Sequence[ClassSummary], spec: str, working_size: tuple[int, int]) -> Iterator[Finding]:
    change = "train on larger images (INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST) or on tiles"
    for summary in classes:
        if summary.tiny:
            message = (
                f"{summary.tiny} of {summary.objects} objects are smaller than {TINY:g} px (root of the area) once images are "
                f"scaled to {working_size[0]} px: smaller than a cell of the feature map"
            )
            yield Finding(TINY_OBJECTS, "warning", f"{spec}: {summary.name!r}", message, change)
