"""What the members of a data set's archives become: one function a data set, from archives to the files of a folder.

In: the checked archives in the order of the table, a folder on its way, and what may come out at most. Out: the folder filled. VOC
and COCO keep their names, which are Detectron2's layout; classification sets become class folders, train/CLASS and val/CLASS,
which is what the readout reads; arrays of pixels become PNG, which loses nothing.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.io import loadmat

from pretrain.base.errors import DataError
from transfer.data.public.archives import Allowance, Member, explained, members, tar_members
from transfer.data.public.tree import Tree

Layout = Callable[[Sequence[Path], Tree, Allowance], None]
CIFAR_SIDE, STL_SIDE = 32, 96  # pixels
CIFAR_FOLDER = "cifar-10-batches-bin"
CALTECH_TRAIN_PER_CLASS = 30
CALTECH_BACKGROUND = "BACKGROUND_Google"
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]*")
_WNID, _WNID_TAR = re.compile(r"n\d{8}"), re.compile(r"(n\d{8})\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def below(prefix: str) -> Layout:
    """The members below a folder of the archives (VOCdevkit/VOC2007), under their names there; others are left out."""

    def layout(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
        for path in archives:
            found = 0
            for member in members(path, allowance):
                if member.name.startswith(f"{prefix}/"):
                    tree.add(member.name.removeprefix(f"{prefix}/"), member)
                    found += 1
            if not found:
                raise DataError(f"{path}: no member below {prefix}/; this is not the published archive")

    return layout


def imagenet_train(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
    """A tar of one tar a class: WNID/NAME.JPEG."""
    (path,) = archives
    for outer in members(path, allowance):
        found = _WNID_TAR.fullmatch(outer.name)
        if found is None:
            raise DataError(f"{outer.where}: expected WNID.tar (n01440764.tar)")
        for member in tar_members(outer.file, outer.where, allowance):
            tree.add(f"{found[1]}/{member.name}", member)


def imagenet_val(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
    """Images in one flat tar; their classes are in the development kit, by number."""
    images, devkit = archives
    wnids = _validation_wnids(devkit, allowance)
    for member in members(images, allowance):
        found = _VAL_IMAGE.fullmatch(member.name)
        if found is None or not 1 <= int(found[1]) <= len(wnids):
            raise DataError(
                f"{member.where}: expected ILSVRC2012_val_00000001.JPEG to {len(wnids):08d}.JPEG, the images of the development kit"
            )
        tree.add(f"{wnids[int(found[1]) - 1]}/{member.name}", member)


def _validation_wnids(devkit: Path, allowance: Allowance) -> list[str]:
    """Of each validation image in the order of their numbers."""
    kept = _contents(devkit, ("ILSVRC2012_validation_ground_truth.txt", "meta.mat"), allowance)
    with explained(f"{devkit}/meta.mat"):
        table: Any = loadmat(io.BytesIO(kept["meta.mat"]), squeeze_me=True)["synsets"]
        leaves = {
            int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(table) if not int(row["num_children"])
        }
    labels = kept["ILSVRC2012_validation_ground_truth.txt"].split()
    strange = [wnid for wnid in leaves.values() if not _WNID.fullmatch(wnid)]
    if strange:
        raise DataError(f"{devkit}: meta.mat names {strange[0]!r}; expected WordNet names (n01440764)")
    try:
        return [leaves[int(label)] for label in labels]
    except (KeyError, ValueError) as error:
        raise DataError(f"{devkit}: a label that meta.mat does not name ({error})") from None


def cifar10(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
    """Rows of one label and 3 x 32 x 32 pixels. The binary archive: the Python one is pickles."""
    (path,) = archives
    meta = f"{CIFAR_FOLDER}/batches.meta.txt"
    (text,) = (member.read() for member in members(path, allowance) if member.name == meta)
    classes = _class_names(text, path)
    batches = {f"{CIFAR_FOLDER}/data_batch_{n}.bin": ("train", f"batch{n}") for n in range(1, 6)}
    batches[f"{CIFAR_FOLDER}/test_batch.bin"] = ("val", "test")
    for member in members(path, allowance):
        if member.name not in batches:
            continue
        split, origin = batches[member.name]
        for number, row in enumerate(_rows(member, 1 + 3 * CIFAR_SIDE**2)):
            pixels = row[1:].reshape(3, CIFAR_SIDE, CIFAR_SIDE).transpose(1, 2, 0)
            name = f"{split}/{_class_of(row[0], classes, member)}/{origin}_{number:05d}.png"
            tree.add_bytes(name, _png(pixels), member.where)


def stl10(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
    """Columns of pixels; labels count from 1; the unlabelled images are a folder without classes."""
    (path,) = archives
    kept = _contents(path, ("class_names.txt", "train_y.bin", "test_y.bin"), allowance)
    classes = _class_names(kept["class_names.txt"], path)
    splits = {"train_X.bin": "train", "test_X.bin": "val", "unlabeled_X.bin": "unlabeled"}
    for member in members(path, allowance):
        file = member.name.rpartition("/")[2]
        if file not in splits:
            continue
        labels = kept.get(file.replace("_X", "_y"))
        for number, row in enumerate(_rows(member, 3 * STL_SIDE**2)):
            if labels is not None and number >= len(labels):
                raise DataError(f"{member.where}: more images than labels")
            folder = "" if labels is None else f"/{_class_of(labels[number] - 1, classes, member)}"
            pixels = row.reshape(3, STL_SIDE, STL_SIDE).transpose(2, 1, 0)
            tree.add_bytes(f"{splits[file]}{folder}/{number:06d}.png", _png(pixels), member.where)


def caltech101(archives: Sequence[Path], tree: Tree, allowance: Allowance) -> None:
    """A zip with a tar.gz in it. No split is published: 30 images of each class for training, the usual number, the same ones on
    every machine (the smallest SHA-256 of CLASS/NAME); the others in val/. Google's background is no class: background/.
    """
    (path,) = archives
    names: dict[str, list[str]] = {}
    for member in _caltech_images(path, allowance):
        folder, file = member.name.split("/")[-2:]
        names.setdefault(folder, []).append(file)
    for folder, files in names.items():
        files.sort(key=lambda file, folder=folder: hashlib.sha256(f"{folder}/{file}".encode()).digest())  # type: ignore[misc]
    train = {(folder, file) for folder, files in names.items() for file in files[:CALTECH_TRAIN_PER_CLASS]}
    for member in _caltech_images(path, allowance):
        folder, file = member.name.split("/")[-2:]
        if folder == CALTECH_BACKGROUND:
            tree.add(f"background/{file}", member)
        else:
            tree.add(f"{'train' if (folder, file) in train else 'val'}/{folder}/{file}", member)


def _caltech_images(path: Path, allowance: Allowance) -> Iterator[Member]:
    """101_ObjectCategories/CLASS/image_0001.jpg; beside them lies a file `tmp` in the background's folder."""
    for outer in members(path, allowance):
        if outer.name.endswith("/101_ObjectCategories.tar.gz") and not outer.name.startswith("__MACOSX/"):
            for member in tar_members(outer.file, outer.where, allowance):
                if re.fullmatch(r"101_ObjectCategories/[^/]+/image_\d+\.jpg", member.name):
                    yield member


def _contents(path: Path, names: Sequence[str], allowance: Allowance) -> dict[str, bytes]:
    """Of the members whose last name is one of `names`. Raises DataError where one is missing."""
    found = {}
    for member in members(path, allowance):
        name = member.name.rpartition("/")[2]
        if name in names:
            found[name] = member.read()
            if len(found) == len(names):
                return found
    missing = sorted(set(names) - set(found))
    raise DataError(f"{path}: no {', '.join(missing)} in it; this is not the published archive")


def _class_names(text: bytes, path: Path) -> list[str]:
    names = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = [name for name in names if not _CLASS_NAME.fullmatch(name)]
    if wrong or not names:
        raise DataError(f"{path}: class names expected, found {wrong[:1] or 'none'}")
    return names


def _class_of(label: int, classes: Sequence[str], member: Member) -> str:
    if not 0 <= label < len(classes):
        raise DataError(f"{member.where}: a label {label} of {len(classes)} classes; the archive is damaged")
    return classes[label]


def _rows(member: Member, length: int) -> Iterator[np.ndarray]:
    """Rows of `length` bytes, uint8. Raises DataError where the member is no whole number of them."""
    if member.size % length:
        raise DataError(f"{member.where}: {member.size:,} bytes are no whole number of rows of {length:,}")
    rest = b""
    for block in member.blocks():
        rest += block
        whole = len(rest) - len(rest) % length
        yield from np.frombuffer(rest[:whole], np.uint8).reshape(-1, length)
        rest = rest[whole:]


def _png(pixels: np.ndarray) -> bytes:
    """Of (H, W, 3) RGB, uint8."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))
    return encoded.tobytes()
