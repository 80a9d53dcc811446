"""The labelled images of a study looked at before anything is made of them, by the code of tools/doctor.py.

In: the SPECs of a study. Out: `Examined`: lines for the screen, and OUT/doctor.json in the form of `doctor.py --json`, which the
report shows; a DataError that lists every error. A study that goes on takes doctor.json as it is where the SPECs, the working size
and all files (names, sizes, times of change) are the same, so that headers of many thousand images are not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.base.atomic import write_json
from pretrain.base.errors import DataError
from transfer.compare.study_config import DetectConfig, StudyConfig, detection_file
from transfer.data.doctor import DataReport, at_working_size, diagnose_splits, joined_findings
from transfer.data.findings import Finding, by_severity, count_line, finding_lines, findings_document
from transfer.data.leakage import Leak, leakage_findings
from transfer.data.spec import parse_spec

DOCTOR = "doctor.json"
FORMAT = "infomin-transfer/study-doctor/1"
SHOWN = 5  # findings of one id on the screen
SHOWN_ERRORS = 20
EMBEDDED = "{data}"  # images that the study makes itself


@dataclass(frozen=True)
class Examined:
    """What was found, or what an earlier start found in the same files.

    reports: by role; empty where `known` holds what an earlier start wrote.
    """

    specs: Mapping[str, str]
    reports: Mapping[str, DataReport]
    known: Mapping[str, Any] | None = None

    def conclude(self, config: StudyConfig, *, leaks: Sequence[Leak], place: Path) -> tuple[str, ...]:
        """Write doctor.json into `place`, and say what is in it.

        config: with everything chosen, which says to what size images are scaled. leaks: test images among the training images,
        which are warnings here: a study of a published split must be possible, and its report says them.
        """
        size = working_size(config)
        if self.known is not None and self.known["working_size"] == _plain(size):
            document = dict(self.known)
        else:
            document = _document(self.specs, self.reports or diagnose_splits(self.specs)[0], size)
        of_data = [Finding(**entry) for entry in document["findings"] if not entry["id"].startswith("leakage/")]
        found = by_severity([*(replace(one, severity="warning") for one in leakage_findings(leaks)), *of_data])
        document |= findings_document(found)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / DOCTOR, document)
        return tuple(_lines(document, found))


def examine_study(part: DetectConfig | None, output_dir: Path) -> Examined | None:
    """Look at the images of a study; None where it has none of one's own. Nothing is written.

    Raises DataError that names every error, by file and object, with what to change.
    """
    if part is None or EMBEDDED in part.train_data:
        return None
    specs = {"train": part.train_data, **({"test": part.test_data} if part.test_data is not None else {})}
    known = _read(output_dir)
    if known is not None and known["specs"] == specs and known["files"] == files_stamp(specs, known["folders"]):
        return Examined(specs, {}, known)
    reports, findings = diagnose_splits(specs)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError(_refusal(errors, specs))
    return Examined(specs, reports)


def _refusal(errors: Sequence[Finding], specs: Mapping[str, str]) -> str:
    words = [word for role, text in specs.items() for word in (f"--{role}-data", text)]
    rest = f"python tools/doctor.py {shlex.join(words)} --json FILE writes all"
    lines = finding_lines(errors, most=SHOWN_ERRORS, rest=rest)
    return "\n  ".join(
        [f"{len(errors)} error{'s' * (len(errors) > 1)} in the labelled images; nothing was run:", *lines]
    )


def working_size(config: StudyConfig) -> tuple[int, int] | None:
    """To what the detector scales test images, px; None where it does not."""
    from transfer.detect.config import load_detector_config

    file = detection_file(config)
    if config.detect is None or file is None:
        return None
    inputs = load_detector_config(file, config.detect.overrides).INPUT
    return (inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST) if inputs.MIN_SIZE_TEST > 0 else None


def _document(
    specs: Mapping[str, str], reports: Mapping[str, DataReport], size: tuple[int, int] | None
) -> dict[str, Any]:
    folders = sorted({folder for report in reports.values() for folder in _folders(report)})
    if size is not None:
        reports = {role: at_working_size(report, size) for role, report in reports.items()}
    data = {role: report.to_dict() for role, report in reports.items()}
    stamp = {"files": files_stamp(specs, folders), "folders": folders}
    more = {"format": FORMAT, "specs": dict(specs), "working_size": _plain(size), **stamp}
    return {**findings_document(joined_findings(reports), data=data), **more}


def _lines(document: Mapping[str, Any], found: Sequence[Finding]) -> Iterable[str]:
    for role, split in document["data"].items():
        classes = split["classes"]
        names = ", ".join(f"{one['name']} {one['objects']}" for one in classes[:SHOWN])
        more = f", and {len(classes) - SHOWN} classes more" if len(classes) > SHOWN else ""
        yield f"{role} data: {split['images']:,} images, {split['objects']:,} objects ({names}{more})"
    warnings = [finding for finding in found if finding.severity == "warning"]
    yield from finding_lines(warnings, most=SHOWN, rest=f"OUT/{DOCTOR} has all")
    yield f"doctor: {count_line(found)} in the labelled images; OUT/{DOCTOR} has all of them"


def _plain(size: tuple[int, int] | None) -> list[int] | None:
    return None if size is None else list(size)


# --- whether anything changed -----------------------------------------------------------------------------------------


def _read(output_dir: Path) -> dict[str, Any] | None:
    """What an earlier start found; None without, or where it cannot be read: then it is found again."""
    try:
        document = json.loads((output_dir / DOCTOR).read_text(encoding="utf-8"))
        keys = ("specs", "files", "folders", "working_size", "findings", "data")
        return document if document["format"] == FORMAT and all(key in document for key in keys) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folders(report: DataReport) -> set[str]:
    """Folders whose files decide what a report says, those of the images and of the labels beside them."""
    records = report.data.records if report.data is not None else ()
    folders = {str(Path(record["file_name"]).absolute().parent) for record in records}
    for part in parse_spec(report.spec).parts:
        if part.kind == "coco":
            folders.add(str(Path(part.detail).absolute()))
        elif part.kind == "yolo":
            folders |= {_label_folder(folder) for folder in list(folders)}
        else:
            folders |= {str(part.source.absolute() / name) for name in ("Annotations", "ImageSets/Main", "JPEGImages")}
    return {folder for folder in folders if Path(folder).is_dir()}


def _label_folder(images: str) -> str:
    """YOLO's: the last folder called images is called labels."""
    before, found, after = images.rpartition(f"{os.sep}images")
    return f"{before}{os.sep}labels{after}" if found else images


def files_stamp(specs: Mapping[str, str], folders: Iterable[str]) -> str:
    """Of the names, sizes and times of change of the SPECs' own files and of all files in `folders`."""
    digest = hashlib.sha256()

    def add(path: str, status: os.stat_result) -> None:
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))

    sources = {str(part.source.absolute()) for text in specs.values() for part in parse_spec(text).parts}
    for source in sorted(sources):
        if Path(source).is_file():
            add(source, Path(source).stat())
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in sorted((one for one in entries if one.is_file()), key=lambda one: one.name):
                    add(entry.path, entry.stat())
        except OSError:
            digest.update(f"{folder}\0cannot be read\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
