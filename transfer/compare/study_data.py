"""What a study writes of one's own data before anything runs: the pool without test images, a split, fractions.

In: `StudyConfig`, the output folder. Out: OUT/splits/ and `StudyData`. A pure function of the images, the labels and the seeds:
made again it is the same, so that a study that is continued goes on from what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.base.atomic import write_text
from pretrain.base.errors import DataError
from pretrain.data.index import Source
from pretrain.data.source import ClassFolders, ImageSource, list_images, open_source
from transfer.compare.study_config import DetectConfig, ReadoutConfig, StudyConfig
from transfer.compare.study_copies import copies_among, find_test_images, image_files
from transfer.compare.study_plan import DATA, StudyData, with_data

if TYPE_CHECKING:
    from transfer.data.leakage import Leak
    from transfer.data.records import DetectionData

SPLITS = "splits"
PLACE = f"{{output}}/{SPLITS}"
NAMED = 5  # images in a message


@dataclass(frozen=True)
class Prepared:
    """data: for the plan. train: labelled training images before fractions are drawn, None where the study has none (yet).

    notes: what was made, one sentence each. leaks: test images among the training images.
    """

    data: StudyData
    train: DetectionData | None
    notes: tuple[str, ...]
    leaks: tuple[Leak, ...] = ()


@dataclass(frozen=True)
class _Labelled:
    """Of the detector's data. train: as in `Prepared`. test_files: of the test images."""

    data: StudyData
    train: DetectionData | None
    test_files: list[Path]
    leaks: tuple[Leak, ...]


def prepare_data(config: StudyConfig, output_dir: Path, *, earlier: Path | None = None) -> Prepared:
    """Read one's own data and write what the study needs of them.

    earlier: a folder of the same study, where pictures may have been compared already. Raises DataError and ConfigError as the
    readers do.
    """
    notes: list[str] = []
    labelled = _Labelled(StudyData(), None, [], ())
    made_here = config.pool is not None and "{data}" in config.pool
    # Before the splits are written, so that a wrong path leaves nothing.
    source = open_source(config.pool) if config.pool is not None and not made_here else None
    folder: str | None = None
    held_out: list[Path] = []
    if config.readout is not None:  # first, for the same reason: the detector's images were looked at before
        folder, held_out = _readout(config.readout, output_dir, notes)
    if config.detect is not None:
        labelled = _detection(config.detect, output_dir, earlier, notes)
    data = replace(labelled.data, readout=folder)
    test_files = [*labelled.test_files, *held_out]
    if config.pool is not None:
        pool = config.pool
        if source is not None:
            pool = _pool(config.pool, source, test_files, notes, splits=output_dir / SPLITS, earlier=earlier)
        data = replace(data, pool=with_data(pool))
    return Prepared(data, labelled.train, tuple(notes), labelled.leaks)


# --- detection ----------------------------------------------------------------------------------------------------------


def _detection(part: DetectConfig, output_dir: Path, earlier: Path | None, notes: list[str]) -> _Labelled:
    """What was read, and its SPECs with a split and fractions where the study asks for them."""
    whole = part.fractions == (1.0,)
    embedded = "{data}" in part.train_data
    if embedded and whole and part.test_data is not None:
        # The first stage makes them; nothing is to be drawn.
        specs = {(1.0, seed): with_data(part.train_data) for seed in part.seeds}
        return _Labelled(StudyData(train=specs, test=with_data(part.test_data)), None, [], ())
    from transfer.data.spec import parse_spec, read_data

    def read(text: str) -> DetectionData:
        return read_data(parse_spec(text.replace("{data}", str(output_dir / "data"))))

    train, leaks, splits = read(part.train_data), [], output_dir / SPLITS
    files: list[Path] = []
    if part.test_data is None:
        train, test_files, folder = _divided(part, train, splits, notes)
        train_spec, test_spec = (f"coco:{PLACE}/{name}.json:{folder}" for name in ("train", "test"))
    else:
        test_files = _image_paths(read(part.test_data))
        train_spec, test_spec = with_data(part.train_data), with_data(part.test_data)
        files = [] if embedded else _annotation_files(part.train_data, part.test_data)
        others = image_files(_image_paths(train))
        leaks = find_test_images("training data", others, test_files, splits, earlier=earlier and earlier / SPLITS)
        if leaks:
            notes.append(
                f"WARNING: {len({leak.test for leak in leaks})} of {len(test_files)} test images are also training images, so "
                "figures come out too high"
            )
    specs = _drawn(part, train, train_spec, splits, notes)
    written = part.test_data is None or not whole
    data = StudyData(train=specs, test=test_spec, written=written, files=tuple(files))
    return _Labelled(data, train, test_files, tuple(leaks))


def _image_paths(data: DetectionData) -> list[Path]:
    return [Path(record["file_name"]) for record in data.records]


def _divided(
    part: DetectConfig, read: DetectionData, splits: Path, notes: list[str]
) -> tuple[DetectionData, list[Path], Path]:
    """train.json and test.json out of one split: the training part, the files of the test images, the folder of the images."""
    from transfer.data.fractions import image_folder, relative_names, write_part
    from transfer.data.split import classes_of, split_images

    paths = _image_paths(read)
    groups = copies_among(paths)
    inside, outside = split_images(
        classes_of(read),
        relative_names([str(path) for path in paths]),
        test_fraction=part.test_fraction,
        seed=part.split_seed,
        together=groups,
    )
    write_part(read, inside, splits / "train.json")
    write_part(read, outside, splits / "test.json")
    copies = f"; {len(groups)} pairs of copies kept together" if groups else ""
    notes.append(
        f"split: {len(inside)} training and {len(outside)} test images of {part.train_data} by seed {part.split_seed}"
        f"{copies} ({_in_classes(read, outside)} in the test images)"
    )
    if part.train_data.startswith("voc"):
        notes.append("split: the metric of the split is COCO AP; AP50 is VOC's, but for objects marked difficult")
    train = replace(read, records=tuple(read.records[position] for position in inside))
    return train, [paths[position] for position in outside], Path(image_folder(read))


def _drawn(
    part: DetectConfig, train: DetectionData, spec: str, splits: Path, notes: list[str]
) -> dict[tuple[float, int], str]:
    """(fraction, seed) -> SPEC; the file of each fraction below 1 is written."""
    from transfer.data.fractions import image_folder, write_fraction

    specs = {}
    for fraction in part.fractions:
        for seed in part.seeds:
            specs[fraction, seed] = spec
            if fraction < 1:
                name = f"train_f{fraction:g}_s{seed}.json"
                write_fraction(train, splits / name, fraction=fraction, seed=seed)
                specs[fraction, seed] = f"coco:{PLACE}/{name}:{image_folder(train)}"
    if part.fractions != (1.0,):
        sizes = ", ".join(f"{_size(train, fraction)} ({fraction:.3g})" for fraction in part.fractions)
        notes.append(f"fractions: {sizes} of {len(train.records)} training images, nested, another draw for every seed")
        notes += _absent_classes(train, part, splits)
    return specs


def _size(data: DetectionData, fraction: float) -> int:
    from transfer.data.split import fraction_size

    return fraction_size(len(data.records), fraction)


def _in_classes(data: DetectionData, positions: Sequence[int]) -> str:
    """ "cup 12, leaf 3": objects of each class."""
    from collections import Counter

    counts = Counter(
        thing["category_id"]
        for position in positions
        for thing in data.records[position]["annotations"]
        if not thing.get("iscrowd", 0)
    )
    return ", ".join(f"{name} {counts[index]}" for index, name in enumerate(data.class_names))


def _absent_classes(data: DetectionData, part: DetectConfig, splits: Path) -> list[str]:
    """Fractions too small to show every class."""
    from transfer.data.fractions import relative_names
    from transfer.data.split import classes_of, stratified_order

    classes = classes_of(data)
    names = relative_names([record["file_name"] for record in data.records])
    every = frozenset().union(*classes)
    notes = []
    for seed in part.seeds:
        order = stratified_order(classes, names, seed=seed)
        for fraction in part.fractions:
            seen = frozenset().union(*(classes[i] for i in order[: _size(data, fraction)]))
            if every - seen:
                absent = ", ".join(data.class_names[label] for label in sorted(every - seen))
                notes.append(
                    f"WARNING: fraction {fraction:g} of seed {seed} has no object of {absent}: too few images to show every class"
                )
    return notes


def _annotation_files(*specs: str) -> list[Path]:
    """Annotation files that the SPECs name, whose content decides whether a run is done; layouts of many files are left out."""
    from transfer.data.spec import parse_spec

    return [part.source for text in specs for part in parse_spec(text).parts if part.source.is_file()]


# --- readout ------------------------------------------------------------------------------------------------------------


def _readout(part: ReadoutConfig, output_dir: Path, notes: list[str]) -> tuple[str, list[Path]]:
    """The folder with train/ and val/, and the files of val/."""
    if "{data}" in part.data:
        return with_data(part.data), []
    root = Path(part.data).expanduser()
    if (root / "train").is_dir() or (root / "val").is_dir():
        return part.data, list_images(root / "val") if (root / "val").is_dir() else []
    from transfer.data.split import split_images

    folders = ClassFolders.load(root)
    if len(folders.classes) < 2:
        raise DataError(f"{root}: a readout needs two classes or more, found only {folders.classes[0]!r}")
    names = [path.relative_to(root).as_posix() for path in folders.paths]
    _, outside = split_images(
        [frozenset([label]) for label in folders.labels],
        names,
        test_fraction=part.test_fraction,
        seed=part.split_seed,
        together=copies_among(folders.paths),
    )
    held_out = set(outside)
    for position, name in enumerate(names):
        _link(
            output_dir / SPLITS / "readout" / ("val" if position in held_out else "train") / name,
            folders.paths[position],
        )
    notes.append(
        f"split: {len(names) - len(outside)} training and {len(outside)} test images of {part.data} by seed {part.split_seed}"
    )
    return f"{PLACE}/readout", [folders.paths[position] for position in outside]


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target.absolute())


# --- the pool -----------------------------------------------------------------------------------------------------------


def _pool(
    pool: str, source: Source, test_files: Sequence[Path], notes: list[str], *, splits: Path, earlier: Path | None
) -> str:
    """`pool`, or a list of its images without those that are test images, also turned, flipped or stored again."""
    if "://" in pool:
        notes.append(f"pool: {len(source):,} images on a server, NOT compared with the test images")
        return pool
    leaks = find_test_images("pool", source, test_files, splits, earlier=earlier and earlier / SPLITS)
    found = sorted({leak.position for leak in leaks})
    if not found:
        notes.append(f"pool: {len(source):,} images, none of them a test image or a changed copy of one")
        return pool
    shown = ", ".join(source.where(index) for index in found[:NAMED])
    if not isinstance(source, ImageSource):
        raise DataError(
            f"{pool}: {len(found)} of its {len(source)} images are test images: {shown}; unpack it into a folder, of which they "
            "are left out, or remove them"
        )
    left_out = set(found)
    kept = [path.absolute() for index, path in enumerate(source.paths) if index not in left_out]
    if not kept:
        raise DataError(
            f"{pool}: all of its {len(source)} images are test images; give images that nothing is tested on"
        )
    path = splits / "pool.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(str, kept)) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8", errors="surrogateescape") != text:
        write_text(path, text)
    notes.append(
        f"pool: {len(kept):,} of {len(source):,} images; {len(found)} are test images or changed copies of them and are left out: "
        f"{shown}{', ...' if len(found) > NAMED else ''}"
    )
    return f"{PLACE}/pool.txt"


def data_folder(output_dir: Path) -> Path:
    """Where the embedded data set is made."""
    return output_dir / DATA.removeprefix("{output}/")
