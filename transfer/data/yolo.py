"""YOLO data: a YAML file that names classes and splits, images, and one text file of labels an image, validated.

In: the YAML file and a split's name. Out: `DetectionData`, or a DataError that names file, line and value.

Layouts as Ultralytics, Roboflow and Darknet write them. `path` of the YAML is the root (relative to the file; without it, or
where it does not exist here, the file's own folder). A split is a folder, a list of folders, or a text file with one image a
line. The labels of `images/a.jpg` are in `labels/a.txt` (the last folder called images counts), or beside the image where a
split has none there. A label line is `class cx cy w h` in fractions of the image's width and height, or `class x1 y1 x2 y2 x3
y3 ...`, a polygon. An image without a label file is background. Sizes come from the images' headers.

All values are read as text (yaml.BaseLoader builds nothing else), so that a class may be called `no` or `1e3`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from detectron2.structures import BoxMode

from pretrain.base.errors import DataError, did_you_mean
from pretrain.base.image_files import SUFFIXES, read_size
from pretrain.data.index import in_threads
from transfer.data.image_checks import file_problem, is_there, pixel_limit
from transfer.data.problems import DEFAULTS, Doubt, Problem, Problems, ReadOptions, read_strictly
from transfer.data.records import BoxRule, DetectionData, is_number
from transfer.data.text_files import read_lines, read_text

EXAMPLE = "a YAML file beside images/ and labels/ with the lines `train: images/train`, `val: images/val` and `names: [cat, dog]`"
# The same in C, where PyYAML was built with it: the Python one takes seconds for a thousand nested lists.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
NOT_SPLITS = ("path", "names", "nc", "download", "roboflow", "yaml_file", "channels", "classes", "backup")
BOX_VALUES = 5
POLYGON_VALUES = 7  # at least: the class and three corners
ROUNDING = 1e-4  # of a side: what labels with four decimals may extend beyond the image without being counted
MAX_BRACKETS = 1000  # of a YAML file: PyYAML's time is quadratic in their depth, 50,000 of them take minutes
FURTHEST = 1.0  # of a side: values further outside are no fractions of it


@dataclass(frozen=True)
class _Description:
    """What the YAML file says of one split. roots: where its paths start, the best one first."""

    path: Path
    roots: tuple[Path, ...]
    names: tuple[str, ...]
    entries: tuple[str, ...]


def read_yolo(file: Path, split: str, options: ReadOptions = DEFAULTS) -> DetectionData:
    """Read and validate one split. Classes are those of the YAML file, or `options.class_names`. Raises DataError."""
    data, notes = read_strictly(problems(file, split, options=options), f"{file} {split}")
    return replace(data, notes=notes)


def problems(file: Path, split: str, *, options: ReadOptions) -> Problems[DetectionData]:
    """The same, problem by problem. Raises DataError where there is no split to read."""
    description = yield from _description(file, split, options)
    images = yield from _images(description)
    labels = yield from _label_files(images, description)
    names = options.class_names or description.names
    rule, present = BoxRule(), set()
    records: list[dict[str, Any]] = []
    sizes = in_threads(partial(_size, max_pixels=pixel_limit(options)), images)
    for position, (path, size) in enumerate(zip(images, sizes, strict=True), start=1):
        if isinstance(size, DataError):
            yield file_problem(path, size, options)
            continue
        height, width = size
        things = []
        lines = yield from _label_lines(labels.get(path), description.names)
        for where, category, values in lines:
            name = description.names[category]
            present.add(name)
            if name not in names:
                remedy = f"add them to --classes (now {', '.join(names)}), or correct the names in {file.name}"
                yield Problem("objects of a class that --classes does not name", where, repr(name), remedy, False)
                continue
            thing = yield from _object(values, width, height, rule, where)
            if thing is not None:
                things.append({**thing, "category_id": names.index(name)})
        record = {"file_name": str(path), "image_id": position, "width": width, "height": height}
        records.append({**record, "annotations": things})
    for name in names:
        if name not in present:
            yield Problem("classes without an object", name, "none in this split", "kept as classes", repaired=True)
    yield from rule.close()
    things = [thing for record in records for thing in record["annotations"]]
    with_mask = sum("segmentation" in thing for thing in things)
    masks: Any = "none" if not with_mask else "all" if with_mask == len(things) else "some"
    return DetectionData(tuple(records), names, masks=masks)


def _size(path: Path, *, max_pixels: int) -> tuple[int, int] | DataError:
    try:
        return read_size(path, max_pixels=max_pixels)
    except DataError as error:
        return error


def _description(file: Path, split: str, options: ReadOptions) -> Problems[_Description]:
    values = _read_description(file)
    if "kpt_shape" in values:
        raise DataError(f"{file} describes keypoints (kpt_shape), which are not read; export boxes or polygons")
    splits = {
        key: [value] if isinstance(value, str) else value
        for key, value in values.items()
        if key not in NOT_SPLITS and value and isinstance(value, (str, list))
    }
    if split not in splits:
        raise DataError(
            f"no split {split!r} in {file}{did_you_mean(split, splits)} (there are: {', '.join(splits) or 'none'})"
        )
    entries = splits[split]
    if not all(isinstance(entry, str) and entry and "\0" not in entry for entry in entries):
        raise DataError(f"{file}: {split} expected a folder, a text file or a list of those")
    declared = values.get("path") or "."
    if not isinstance(declared, str):
        raise DataError(f"{file}: path expected the data's folder, found a {type(declared).__name__}")
    own = file.parent
    root = own / _expanded(declared)
    roots = (root.resolve() if ".." in root.parts else root, own)
    names = yield from _class_names(values, file, roots, options)
    return _Description(file, roots, names, tuple(entry.replace("\\", "/") for entry in entries))


def _read_description(file: Path) -> Mapping[str, Any]:
    """The YAML file; Darknet's .data file, `key = value` a line, is the same."""
    if file.is_dir():
        there = sorted(str(path) for kind in ("*.yaml", "*.yml", "*.data") for path in file.glob(kind))
        instead = f"pass its YAML file: {' or '.join(there[:8])}" if there else f"it has no YAML file; write {EXAMPLE}"
        raise DataError(f"{file} is a folder; {instead}")
    text = read_text(file)
    if file.suffix == ".data":
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key.strip(): value.strip() for key, _, value in pairs}
    brackets = text.count("[") + text.count("{")
    if brackets > MAX_BRACKETS:
        raise DataError(f"{file} is not plain YAML: {brackets} opening brackets, expected at most {MAX_BRACKETS}")
    try:
        values = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not plain YAML: {error or type(error).__name__}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DataError(f"{file} is not a YOLO data file; write {EXAMPLE}")
    return values


def _class_names(
    values: Mapping[str, Any], file: Path, roots: Sequence[Path], options: ReadOptions
) -> Problems[tuple[str, ...]]:
    names = values.get("names")
    if not names and options.class_names:
        names = list(options.class_names)
    if isinstance(names, str) and names:  # Darknet: a file with one a line
        path, mended = _locate(names, roots)
        if path is None or not path.is_file():
            raise DataError(f"{file}: names expected a list of class names or a file, found {names!r:.60}")
        if mended:
            yield _path_problem(file, names, path)
        names = [line for _, line in read_lines(path)]
    if isinstance(names, dict):
        ordered = [names.get(str(number)) for number in range(len(names))]
        if None in ordered:
            raise DataError(f"{file}: names expected the numbers 0 to {len(names) - 1}, found {', '.join(names)!r:.80}")
        names = ordered
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise DataError(f"{file}: names expected a list of class names; add it, or pass --classes NAMES")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: the class {twice!r} is named twice")
    count = values.get("nc") or values.get("classes") or str(len(names))
    if not isinstance(count, str) or count != str(len(names)):
        count = count if isinstance(count, str) else type(count).__name__
        raise DataError(f"{file}: nc says {count!r:.20} classes, names has {len(names)}: {', '.join(names)!r:.200}")
    return tuple(names)


def _images(description: _Description) -> Problems[list[Path]]:
    """The images of a split, in the order of their paths; each once."""
    seen: dict[str, str] = {}
    found: list[Path] = []
    for entry in description.entries:
        place, mended = _locate(entry, description.roots)
        if place is None:
            raise DataError(
                f"{description.path}: {entry} does not exist (looked in {', '.join(map(str, dict.fromkeys(description.roots)))}); "
                "correct it, or set path to the folder of the data"
            )
        if mended:
            yield _path_problem(description.path, entry, place)
        if place.is_dir():
            listed = [(str(place), path) for path in _images_below(place)]
        else:
            listed = yield from _listed_images(place, description)
        for where, path in listed:
            on_disk = os.path.realpath(path)
            if on_disk in seen:
                found_twice = f"{path}, first in {seen[on_disk]}"
                yield Problem("images listed twice", where, found_twice, "read once", repaired=True)
                continue
            seen[on_disk] = where
            found.append(path)
    if not found:
        raise DataError(f"{description.path}: no image in {', '.join(description.entries)}")
    return sorted(found)


def _path_problem(file: Path, entry: str, place: Path) -> Problem:
    kind = "paths of the YAML file lead elsewhere"
    return Problem(kind, str(file), entry, f"taken for {place} and the like", repaired=True)


def _locate(entry: str, roots: Sequence[Path]) -> tuple[Path | None, bool]:
    """Where a path of the YAML file is, and whether it had to be mended: Roboflow's `../train/images` that is really
    `train/images`, `data/` before everything that CVAT writes for Darknet, a `path` or an absolute path of the machine where
    the file was written."""
    given = _expanded(entry)
    if is_there(roots[0] / given):
        return roots[0] / given, False
    parts = [part for part in PurePosixPath(entry).parts if part not in ("..", ".", "/")]
    # Of a path from another machine, its end: two names at least, so that a folder that is merely called `images` is no match.
    starts = range(max(len(parts) - 1, 1)) if given.is_absolute() else (0, 1) if parts[:1] == ["data"] else (0,)
    for start in starts:
        for root in roots:
            path = root.joinpath(*parts[start:])
            if parts[start:] and is_there(path):
                return path, True
    return None, False


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def _listed_images(listing: Path, description: _Description) -> Problems[list[tuple[str, Path]]]:
    """The images that a text file names: relative to it, or to the root."""
    images = []
    roots = (listing.parent, *description.roots)
    inside = [os.path.normpath(root.absolute()) for root in roots]
    for number, line in read_lines(listing):
        where, name = f"{listing}:{number}", line.replace("\\", "/")
        place = next((root / name for root in roots if _is_file(root / name)), None)
        mended = False
        if place is None and "\0" not in name:
            place, mended = _locate(name, roots)
        if place is None:
            place = listing.parent / name  # reported as missing
        elif not any(Path(os.path.normpath(place.absolute())).is_relative_to(root) for root in inside):
            remedy = f"move the images below one of these folders, or set path in {description.path.name} to theirs"
            yield Problem("image names leave the folder of the data", where, repr(line), remedy, repaired=False)
            continue
        if mended or name != line:
            yield Problem("image names lead elsewhere", where, line, f"taken for {place} and the like", repaired=True)
        images.append((where, place))
    return images


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~ and a name that no user has
        return Path(text)


def _is_file(path: Path) -> bool:
    return is_there(path) and path.is_file()


def _label_files(images: Sequence[Path], description: _Description) -> Problems[dict[Path, Path]]:
    """Image -> its label file, where it has one. Background images, and label files without an image, are counted."""
    found: dict[Path, Path] = {}
    for where_to_look in (_in_labels_folder, _beside):
        expected = {path: where_to_look(path) for path in images}
        found = {path: label for path, label in expected.items() if _is_file(label)}
        if found:
            break
    else:
        raise DataError(
            f"{description.path}: none of {len(images)} images has a label file; expected for example "
            f"{_in_labels_folder(images[0])} for {images[0]}"
        )
    users: dict[Path, Path] = {}
    for path, label in found.items():
        if label in users:
            remedy = "keep one of the images, or give each its own labels"
            yield Problem("images share one label file", str(path), str(label), remedy, repaired=False)
        users[label] = path
    for path in images:
        if path not in found:
            yield Problem("images without a label file", str(path), "no labels", "kept as background", repaired=True)
    if where_to_look is _in_labels_folder and all(not entry.endswith(".txt") for entry in description.entries):
        wanted = set(expected.values())
        for folder in sorted({label.parent for label in found.values()}):
            for label in sorted(folder.glob("*.txt")):
                if label not in wanted and label.name != "classes.txt":
                    yield Problem("label files without an image", str(label), "no image", "not used", repaired=True)
    return found


def _in_labels_folder(image: Path) -> Path:
    parts = list(image.parts)
    for position in reversed(range(len(parts) - 1)):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _beside(image: Path) -> Path:
    return image.with_suffix(".txt")


def _label_lines(label: Path | None, names: Sequence[str]) -> Problems[list[tuple[str, int, list[float]]]]:
    """(place, class, values) of the lines of a label file."""
    found: list[tuple[str, int, list[float]]] = []
    if label is None:
        return found
    try:
        lines = read_lines(label)
    except DataError as error:
        yield Problem("label files cannot be read", str(label), str(error), "repair or export them again", False)
        return found
    seen: dict[tuple[str, ...], int] = {}
    for number, line in lines:
        where, words = f"{label}:{number}", tuple(line.split())
        if words in seen:
            yield Problem("label lines are given twice", where, line, "one of each kept", repaired=True)
            continue
        seen[words] = number
        try:
            found.append((where, *_values(words, names)))
        except Doubt as doubt:
            yield doubt.at(where)
    return found


def _values(words: Sequence[str], names: Sequence[str]) -> tuple[int, list[float]]:
    """Class and coordinates of one line."""
    line = " ".join(words)
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [float("nan")]
    if not all(is_number(number) for number in numbers):
        raise Doubt("label lines with something else than numbers", f"{line!r:.80}", "correct these lines")
    if len(numbers) != BOX_VALUES and (len(numbers) < POLYGON_VALUES or len(numbers) % 2 == 0):
        raise Doubt(
            "label lines with a wrong number of values",
            f"{len(numbers)} values: {line!r:.80}",
            "write `class cx cy w h`, or `class` and the x and y of at least three corners (six values are a prediction with "
            "its confidence)",
        )
    category, *values = numbers
    if category != int(category) or not 0 <= category < len(names):
        raise Doubt(
            "label lines of a class that names does not have",
            f"class {words[0]}: {line!r:.80}",
            f"names has the classes 0 to {len(names) - 1}: complete it, or correct the labels",
        )
    if len(values) == BOX_VALUES - 1 and min(values[2:]) < 0:
        raise Doubt("label lines with a negative width or height", f"{line!r:.80}", "correct these lines")
    if not all(-FURTHEST <= value <= 1.0 + FURTHEST for value in values):
        raise Doubt(
            "label lines with values that are no fractions of the image",
            f"{line!r:.80}",
            "divide x and width by the image's width, y and height by its height: values from 0 to 1 (are these pixels?)",
        )
    return int(category), values


def _object(
    values: Sequence[float], width: int, height: int, rule: BoxRule, where: str
) -> Problems[dict[str, Any] | None]:
    """One object as a Detectron2 dict without its category; None where it is dropped (and counted)."""
    sized = None
    if len(values) == BOX_VALUES - 1:
        cx, cy, w, h = values
        sized = (cx * width, cy * height, w * width, h * height)
        xs, ys = [cx - w / 2, cx + w / 2], [cy - h / 2, cy + h / 2]
    else:
        xs, ys = list(values[0::2]), list(values[1::2])
    left, right = (_on_the_border(value) * width for value in (min(xs), max(xs)))
    top, bottom = (_on_the_border(value) * height for value in (min(ys), max(ys)))
    box = yield from rule.apply((left, top, right, bottom), width, height, where, sized=sized)
    if box is None:
        return None
    thing = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0, "area": (box[2] - box[0]) * (box[3] - box[1])}
    if len(values) > BOX_VALUES - 1:
        points = [(x * width, y * height) for x, y in zip(xs, ys, strict=True)]
        area = min(_area(points), thing["area"])  # of one over the border no more than what lies in the image can have
        thing |= {"segmentation": [[value for point in points for value in point]], "area": area}
    return thing


def _on_the_border(value: float) -> float:
    """A fraction that rounding put a little outside, on the border."""
    return min(max(value, 0.0), 1.0) if -ROUNDING <= value <= 1.0 + ROUNDING else value


def _area(points: Sequence[tuple[float, float]]) -> float:
    """Of a polygon, by the shoelace formula."""
    return 0.5 * abs(
        sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, (*points[1:], points[0]), strict=True))
    )
