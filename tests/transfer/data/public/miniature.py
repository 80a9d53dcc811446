"""Every public data set in small: archives packed as the published ones are, and the table's entry with their sizes and checksums."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from scipy.io import savemat

from pretrain.base.download import Published
from transfer.data.public.checks import Check, coco, voc
from transfer.data.public.table import DATA_SETS, PublicDataset

WNIDS = ("n01440764", "n01443537")


@dataclass(frozen=True)
class Miniature:
    """dataset: of the table, made for `archives`. archives: name -> bytes."""

    dataset: PublicDataset
    archives: Mapping[str, bytes]


def tar(members: Mapping[str, bytes], *, mode: str = "w", folders: tuple[str, ...] = ()) -> bytes:
    """Plain files, after entries of `folders`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def jpeg(seed: int, width: int = 120, height: int = 96) -> bytes:
    """One bright rectangle (30, 20)..(90, 70) on noise."""
    picture = np.random.default_rng(seed).integers(0, 80, (height, width, 3), dtype=np.uint8)
    picture[20:70, 30:90] = (40 * seed % 256, 200, 255 - 20 * seed % 256)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def miniature(name: str, archives: Mapping[str, bytes], counts: list[dict[str, int]], check: Check | None) -> Miniature:
    """The entry `name` of the table with other numbers. counts: of each folder."""

    def small(archive: Any) -> Any:
        content = archives[archive.name]
        checksums = {kind: hashlib.new(kind, content).hexdigest() for kind in archive.published.digests}
        return replace(archive, published=Published(archive.published.size and len(content), checksums))

    original = DATA_SETS[name]
    folders = tuple(
        replace(folder, archives=tuple(map(small, folder.archives)), counts=numbers, unpacked=1_000_000)
        for folder, numbers in zip(original.folders, counts, strict=True)
    )
    return Miniature(replace(original, folders=folders, check=check), archives)


def _voc_image(year: int, number: int) -> dict[str, bytes]:
    home, identifier = f"VOCdevkit/VOC{year}", f"{number:06d}"
    corners = "<xmin>31</xmin><ymin>21</ymin><xmax>90</xmax><ymax>70</ymax>"
    kind = ("cat", "dog")[number % 2]
    xml = (
        f"<annotation><folder>VOC{year}</folder><filename>{identifier}.jpg</filename><size><width>120</width><height>96</height>"
        f"<depth>3</depth></size><object><name>{kind}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object></annotation>"
    )
    return {
        f"{home}/JPEGImages/{identifier}.jpg": jpeg(number),
        f"{home}/Annotations/{identifier}.xml": xml.encode(),
    }


def _voc_tar(year: int, splits: Mapping[str, range]) -> bytes:
    home = f"VOCdevkit/VOC{year}"
    members: dict[str, bytes] = {}
    for number in sorted({number for numbers in splits.values() for number in numbers}):
        members |= _voc_image(year, number)
    for split, numbers in splits.items():
        members[f"{home}/ImageSets/Main/{split}.txt"] = "".join(f"{number:06d}\n" for number in numbers).encode()
    folders = ("VOCdevkit/", f"{home}/", f"{home}/Annotations/", f"{home}/ImageSets/", f"{home}/JPEGImages/")
    return tar(members, folders=folders)


def voc2007() -> Miniature:
    """Six images of trainval, three of test, in two archives of one folder."""
    splits = {"train": range(1, 4), "val": range(4, 7), "trainval": range(1, 7)}
    archives = {
        "VOCtrainval_06-Nov-2007.tar": _voc_tar(2007, splits),
        "VOCtest_06-Nov-2007.tar": _voc_tar(2007, {"test": range(7, 10)}),
    }
    counts = {"JPEGImages/*.jpg": 9, "Annotations/*.xml": 9}
    sizes = {"train": 3, "val": 3, "trainval": 6, "test": 3}
    return miniature("voc2007", archives, [counts], voc("VOC2007", sizes))


def voc2012() -> Miniature:
    splits = {"train": range(1, 3), "val": range(3, 5), "trainval": range(1, 5)}
    archives = {"VOCtrainval_11-May-2012.tar": _voc_tar(2012, splits)}
    counts = {"JPEGImages/*.jpg": 4, "Annotations/*.xml": 4}
    return miniature("voc2012", archives, [counts], voc("VOC2012", {"train": 2, "val": 2, "trainval": 4}))


def _instances(numbers: range) -> bytes:
    import json

    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 120, "height": 96} for n in numbers]
    things = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [30, 20, 60, 50], "area": 3000, "iscrowd": 0}
        for n in numbers
    ]
    return json.dumps({"images": images, "annotations": things, "categories": [{"id": 1, "name": "cat"}]}).encode()


def coco2017() -> Miniature:
    train, val = range(1, 5), range(5, 7)
    files = {
        f"annotations/{kind}_{split}2017.json": _instances(numbers)
        for kind in ("instances", "captions", "person_keypoints")
        for split, numbers in (("train", train), ("val", val))
    }
    archives = {
        "annotations_trainval2017.zip": zipped(files),
        "train2017.zip": zipped({"train2017/": b""} | {f"train2017/{n:012d}.jpg": jpeg(n) for n in train}),
        "val2017.zip": zipped({"val2017/": b""} | {f"val2017/{n:012d}.jpg": jpeg(n) for n in val}),
    }
    counts = [{"*.json": 6}, {"*.jpg": 2}, {"*.jpg": 4}]
    return miniature("coco2017", archives, counts, coco("coco", {"train2017": (4, 4), "val2017": (2, 2)}))


def imagenet() -> Miniature:
    """Two classes of three and two images; validation labels 2, 1, 2. A third synset has children, as inner nodes have."""
    kind = [("ILSVRC2012_ID", "i4"), ("WNID", "U16"), ("words", "U16"), ("num_children", "i4")]
    synsets = np.array([(1, WNIDS[0], "a", 0), (2, WNIDS[1], "b", 0), (3, "n00001740", "c", 2)], dtype=object)
    table = np.empty((3, 1), dtype=[(field, "O") for field, _ in kind])
    for row, values in zip(table[:, 0], synsets, strict=True):
        for (field, _), value in zip(kind, values, strict=True):
            row[field] = value
    meta = io.BytesIO()
    savemat(meta, {"synsets": table})
    home = "ILSVRC2012_devkit_t12/data"
    devkit = {f"{home}/meta.mat": meta.getvalue(), f"{home}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n2\n"}
    train = {
        f"{wnid}.tar": tar({f"{wnid}_{n}.JPEG": jpeg(n) for n in range(count)})
        for wnid, count in zip(WNIDS, (3, 2), strict=True)
    }
    archives = {
        "ILSVRC2012_img_train.tar": tar(train),
        "ILSVRC2012_img_val.tar": tar({f"ILSVRC2012_val_{n:08d}.JPEG": jpeg(n + 9) for n in (1, 2, 3)}),
        "ILSVRC2012_devkit_t12.tar.gz": tar(devkit, mode="w:gz"),
    }
    return miniature("imagenet", archives, [{"*/*.JPEG": 3, "*/": 2}, {"*/*.JPEG": 5, "*/": 2}], None)


CIFAR_CLASSES, STL_CLASSES = ("airplane", "frog"), ("airplane", "bird", "ship")


def marked(side: int, order: str) -> bytes:
    """3 planes of `side` x `side`: red 255 at row 2, column 5; row ("C") or column ("F") first."""
    planes = np.zeros((3, side, side), dtype=np.uint8)
    planes[0, 2, 5] = 255
    planes[2] = 7
    return (planes if order == "C" else planes.transpose(0, 2, 1)).tobytes()


def cifar10() -> Miniature:
    """Two rows a batch, one of each class."""
    rows = b"".join(bytes([label]) + marked(32, "C") for label in (1, 0))
    home = "cifar-10-batches-bin"
    members = {f"{home}/data_batch_{n}.bin": rows for n in range(1, 6)} | {f"{home}/test_batch.bin": rows}
    members |= {f"{home}/batches.meta.txt": ("\n".join(CIFAR_CLASSES) + "\n\n").encode(), f"{home}/readme.html": b"<p>"}
    counts = {"train/*/*.png": 10, "train/*/": 2, "val/*/*.png": 2, "val/*/": 2}
    return miniature("cifar10", {"cifar-10-binary.tar.gz": tar(members, mode="w:gz")}, [counts], None)


def stl10() -> Miniature:
    """Three training images, three of test, four without labels."""
    home = "stl10_binary"
    members = {
        f"{home}/test_X.bin": marked(96, "F") * 3,
        f"{home}/test_y.bin": bytes([3, 2, 1]),
        f"{home}/train_X.bin": marked(96, "F") * 3,
        f"{home}/train_y.bin": bytes([1, 2, 3]),
        f"{home}/unlabeled_X.bin": marked(96, "F") * 4,
        f"{home}/class_names.txt": "\n".join(STL_CLASSES).encode(),
        f"{home}/fold_indices.txt": b"0 1\n",
    }
    counts = {"train/*/*.png": 3, "train/*/": 3, "val/*/*.png": 3, "val/*/": 3, "unlabeled/*.png": 4}
    return miniature("stl10", {"stl10_binary.tar.gz": tar(members, mode="w:gz")}, [counts], None)


def caltech101() -> Miniature:
    """Two classes of 31 and 33 images, two of background and the file beside them, in a tar.gz in a zip of a Mac."""
    small = [cv2.imencode(".jpg", np.full((8, 8, 3), n, np.uint8))[1].tobytes() for n in range(34)]
    home = "101_ObjectCategories"
    members = {
        f"{home}/{folder}/image_{n:04d}.jpg": small[n]
        for folder, count in (("ant", 31), ("bass", 33), ("BACKGROUND_Google", 2))
        for n in range(1, count + 1)
    }
    members[f"{home}/BACKGROUND_Google/tmp"] = b"not an image"
    files = {
        "caltech-101/": b"",
        "caltech-101/101_ObjectCategories.tar.gz": tar(members, mode="w:gz"),
        "caltech-101/Annotations.tar": tar({"Annotations/ant/annotation_0001.mat": b"x"}),
        "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"mac",
    }
    counts = {"train/*/*.jpg": 60, "train/*/": 2, "val/*/*.jpg": 4, "val/*/": 2, "background/*.jpg": 2}
    return miniature("caltech101", {"caltech-101.zip": zipped(files)}, [counts], None)


MINIATURES: dict[str, Callable[[], Miniature]] = {
    "voc2007": voc2007,
    "voc2012": voc2012,
    "coco2017": coco2017,
    "imagenet": imagenet,
    "cifar10": cifar10,
    "stl10": stl10,
    "caltech101": caltech101,
}
