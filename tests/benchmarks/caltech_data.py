"""The data of configs/study/caltech_*.yaml: Caltech-101 as a pool and as class folders, persons of the small COCO.

In: a folder with caltech101.zip (class folders), coco/ (official layout) and bccd/ (VOC layout). Out, in --output:
    caltech101/CLASS/*.jpg                                  all photos; the study leaves the readout's test photos out of the pool
    labelled/train, labelled/val                            links: 30 photos of each class, up to 20 others
    coco_person/{train,val}.json, coco -> the images        the images with a person, and persons alone
    bccd                                                    link
Nothing is drawn at random: the photos of a class are dealt out in the order of a hash of their names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LABELS, TESTED = 30, 20  # photos of a class; Caltech-101's usual protocol learns from 30
PERSON = "person"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; what is there is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=Path("data/caltech_study"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    pool = args.output / "caltech101"
    if not pool.exists():
        with zipfile.ZipFile(args.shared / "caltech101.zip") as archive:
            archive.extractall(args.output)
    split_classes(pool, args.output / "labelled")
    (args.output / "coco_person").mkdir(exist_ok=True)
    for name in ("coco", "bccd"):
        if not (args.output / name).exists():
            (args.output / name).symlink_to((args.shared / name).absolute())
    for split in ("train", "val"):
        given = json.loads((args.shared / "coco" / "annotations" / f"instances_{split}2017.json").read_text())
        kept = one_category(given, PERSON)
        (args.output / "coco_person" / f"{split}.json").write_text(json.dumps(kept))
        print(f"coco {split}: {len(kept['images'])} images, {len(kept['annotations'])} persons")
    counts = {split: len(list((args.output / "labelled" / split).glob("*/*"))) for split in ("train", "val")}
    print(
        f"caltech101: {len(list(pool.glob('*/*')))} photos; readout {counts['train']} to learn from, {counts['val']} held out"
    )
    return 0


def split_classes(pool: Path, labelled: Path) -> None:
    """Links to LABELS photos of each class below train/ and to up to TESTED others below val/."""
    for folder in sorted(path for path in pool.iterdir() if path.is_dir()):
        photos = sorted(
            folder.iterdir(), key=lambda path: hashlib.sha256(f"{folder.name}/{path.name}".encode()).digest()
        )
        for split, chosen in (("train", photos[:LABELS]), ("val", photos[LABELS : LABELS + TESTED])):
            place = labelled / split / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for photo in chosen:
                if not (place / photo.name).is_symlink():
                    (place / photo.name).symlink_to(photo.absolute())


def one_category(given: dict[str, Any], name: str) -> dict[str, Any]:
    """COCO annotations of one category alone, with the images that hold an object of it."""
    (category,) = [category for category in given["categories"] if category["name"] == name]
    annotations = [thing for thing in given["annotations"] if thing["category_id"] == category["id"]]
    shown = {thing["image_id"] for thing in annotations}
    images = [image for image in given["images"] if image["id"] in shown]
    return {**given, "images": images, "annotations": annotations, "categories": [category]}


if __name__ == "__main__":
    raise SystemExit(main())
