"""The public data sets, as data: archives with their published checksums, folders with their counts, and the command that uses them.

Checksums. VOC, STL-10, Caltech-101, ImageNet: those that torchvision checks (0.29.1, torchvision/datasets); CIFAR-10: of its page
(www.cs.toronto.edu/~kriz/cifar.html). COCO publishes none: its SHA-256 are those that TensorFlow Datasets recorded
(url_checksums/coco.txt), which others found again; the CRCs inside the archives are compared as well. Sizes: TensorFlow Datasets'
url_checksums, and listings of the files. Counts: the publishers' pages; Caltech-101: 8,677 images in 101 classes and 467 of
background (9,144; the 9,146 of the literature count two that are not there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretrain.base.download import Published
from transfer.data.public import layouts
from transfer.data.public.checks import Check, coco, voc
from transfer.data.public.layouts import Layout

OXFORD = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/",
    "http://host.robots.ox.ac.uk/pascal/VOC/",
)  # the publisher's two servers
COCO = "http://images.cocodataset.org/"
IMAGENET_PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
TORCHVISION, CIFAR_PAGE, TENSORFLOW = "torchvision", "the publisher's page", "TensorFlow Datasets"


@dataclass(frozen=True)
class Archive:
    """One file to be had.

    urls: where, in the order in which they are tried; empty where a login is needed. checksum_from: who published the checksums.
    """

    name: str
    published: Published
    checksum_from: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """One folder below the root, which is there whole or not at all.

    counts: pattern below the folder -> how many files it has; one that ends in "/" counts folders.
    unpacked: bytes on the disk, about; also bounds what may come out of the archives.
    """

    path: str
    archives: tuple[Archive, ...]
    layout: Layout
    counts: Mapping[str, int]
    unpacked: int


@dataclass(frozen=True)
class PublicDataset:
    """uses: commands, with {root} for the root folder. notes: what was decided, and what to know. check: of its annotations.

    login_page: where archives without an address are to be had.
    """

    title: str
    folders: tuple[Folder, ...]
    uses: tuple[str, ...]
    notes: tuple[str, ...] = ()
    check: Check | None = None
    login_page: str = ""

    @property
    def archives(self) -> tuple[Archive, ...]:
        """Of all folders."""
        return tuple(archive for folder in self.folders for archive in folder.archives)

    @property
    def download(self) -> int:
        """Bytes."""
        return sum(archive.published.size or 0 for archive in self.archives)

    @property
    def unpacked(self) -> int:
        """Bytes."""
        return sum(folder.unpacked for folder in self.folders)


def _archive(name: str, urls: Sequence[str], checksum_from: str, size: int | None, **checksums: str) -> Archive:
    return Archive(name, Published(size, checksums), checksum_from, tuple(f"{url}{name}" for url in urls))


def _oxford(name: str, year: int, size: int, md5: str) -> Archive:
    return _archive(name, [f"{url}voc{year}/" for url in OXFORD], TORCHVISION, size, md5=md5)


def _voc_counts(images: int) -> dict[str, int]:
    return {"JPEGImages/*.jpg": images, "Annotations/*.xml": images}


def _class_folders(classes: int, suffix: str, **splits: int) -> dict[str, int]:
    counts = {f"{split}/*/*.{suffix}": images for split, images in splits.items()}
    return counts | {f"{split}/*/": classes for split in splits}


def _readout(name: str) -> tuple[str, ...]:
    return (
        f"python tools/pretrain.py --output-dir runs/pre data.root={{root}}/{name}/train",
        f"python tools/linear_eval.py --weights runs/pre --data {{root}}/{name}",
    )


DETECTRON2 = "for Detectron2's built-in names: export DETECTRON2_DATASETS={root}"
_VOC_2007 = Folder(
    "VOC2007",
    (
        _oxford("VOCtrainval_06-Nov-2007.tar", 2007, 460_032_000, "c52e279531787c972589f7e41ab4ae64"),
        _oxford("VOCtest_06-Nov-2007.tar", 2007, 451_020_800, "b6e924de25625d8de591ea690078ad9f"),
    ),
    layouts.below("VOCdevkit/VOC2007"),
    _voc_counts(9_963),
    1_000_000_000,
)
_VOC_2012 = Folder(
    "VOC2012",
    (_oxford("VOCtrainval_11-May-2012.tar", 2012, 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd"),),
    layouts.below("VOCdevkit/VOC2012"),
    _voc_counts(17_125),
    2_100_000_000,
)


def _coco_folder(name: str, address: str, size: int, sha256: str, counts: dict[str, int], unpacked: int) -> Folder:
    file = f"{'annotations_trainval2017' if name == 'annotations' else name}.zip"
    archive = _archive(file, [f"{COCO}{address}/"], TENSORFLOW, size, sha256=sha256)
    return Folder(f"coco/{name}", (archive,), layouts.below(name), counts, unpacked)


_COCO = (
    _coco_folder(
        "annotations",
        "annotations",
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        {"*.json": 6},
        850_000_000,
    ),
    _coco_folder(
        "val2017",
        "zips",
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        {"*.jpg": 5_000},
        830_000_000,
    ),
    _coco_folder(
        "train2017",
        "zips",
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        {"*.jpg": 118_287},
        19_600_000_000,
    ),
)
_IMAGENET = (
    Folder(
        "imagenet/val",
        (
            _archive("ILSVRC2012_img_val.tar", (), TORCHVISION, 6_744_924_160, md5="29b22e2961454d5413ddabcf34fc5622"),
            _archive("ILSVRC2012_devkit_t12.tar.gz", (), TORCHVISION, None, md5="fa75699e90414af021442c21a62c3abf"),
        ),
        layouts.imagenet_val,
        {"*/*.JPEG": 50_000, "*/": 1_000},
        6_900_000_000,
    ),
    Folder(
        "imagenet/train",
        (
            _archive(
                "ILSVRC2012_img_train.tar", (), TORCHVISION, 147_897_477_120, md5="1d675b47d978889d74fa0da5fadfb00e"
            ),
        ),
        layouts.imagenet_train,
        {"*/*.JPEG": 1_281_167, "*/": 1_000},
        150_000_000_000,
    ),
)
DATA_SETS: dict[str, PublicDataset] = {
    "voc2007": PublicDataset(
        "Pascal VOC 2007, trainval and test",
        (_VOC_2007,),
        (
            "python tools/train_net.py --config-file voc/R_50_C4_07.yaml --init NAME=WEIGHTS "
            "--train-data voc:{root}/VOC2007:trainval --test-data voc07:{root}/VOC2007:test",
            DETECTRON2,
        ),
        check=voc("VOC2007", {"train": 2_501, "val": 2_510, "trainval": 5_011, "test": 4_952}),
    ),
    "voc2012": PublicDataset(
        "Pascal VOC 2012, trainval",
        (_VOC_2012,),
        (
            "python tools/train_net.py --config-file voc/R_50_C4_24k.yaml --init NAME=WEIGHTS "
            "--train-data voc:{root}/VOC2007:trainval+voc:{root}/VOC2012:trainval --test-data voc:{root}/VOC2007:test",
            DETECTRON2,
        ),
        ("the labels of VOC 2012's test images are not published: prepare voc2007 too, and test on that",),
        voc("VOC2012", {"train": 5_717, "val": 5_823, "trainval": 11_540}),
    ),
    "coco2017": PublicDataset(
        "COCO 2017, train, val and their annotations",
        _COCO,
        (
            "python tools/train_net.py --config-file coco/R_50_FPN_1x.yaml --init NAME=WEIGHTS "
            "--train-data coco:{root}/coco/annotations/instances_train2017.json:{root}/coco/train2017 "
            "--test-data coco:{root}/coco/annotations/instances_val2017.json:{root}/coco/val2017",
            DETECTRON2,
        ),
        (
            "COCO publishes no checksums: compared are those that TensorFlow Datasets recorded, and the CRC of every member",
        ),
        coco("coco", {"train2017": (118_287, 860_001), "val2017": (5_000, 36_781)}),
    ),
    "imagenet": PublicDataset(
        "ImageNet (ILSVRC2012), train and val, from your own archives",
        _IMAGENET,
        _readout("imagenet"),
        ("val/ is sorted into classes by the labels of the development kit",),
        login_page=IMAGENET_PAGE,
    ),
    "cifar10": PublicDataset(
        "CIFAR-10, class folders of PNG",
        (
            Folder(
                "cifar10",
                (
                    _archive(
                        "cifar-10-binary.tar.gz",
                        ("https://www.cs.toronto.edu/~kriz/",),
                        CIFAR_PAGE,
                        170_052_171,
                        md5="c32a1d4ab5d03f1284b67883e8d87530",
                    ),
                ),
                layouts.cifar10,
                _class_folders(10, "png", train=50_000, val=10_000),
                300_000_000,
            ),
        ),
        _readout("cifar10"),
        ("val/ is the published test split",),
    ),
    "stl10": PublicDataset(
        "STL-10, class folders of PNG and the unlabelled images",
        (
            Folder(
                "stl10",
                (
                    _archive(
                        "stl10_binary.tar.gz",
                        ("http://ai.stanford.edu/~acoates/stl10/", "https://cs.stanford.edu/~acoates/stl10/"),
                        TORCHVISION,
                        2_640_397_119,
                        md5="91f7769df0f17e558f3565bffb0c7dfb",
                    ),
                ),
                layouts.stl10,
                {**_class_folders(10, "png", train=5_000, val=8_000), "unlabeled/*.png": 100_000},
                2_900_000_000,
            ),
        ),
        (
            "python tools/pretrain.py --output-dir runs/pre data.root={root}/stl10/unlabeled",
            "python tools/linear_eval.py --weights runs/pre --data {root}/stl10",
        ),
        ("val/ is the published test split; the ten folds of the training images are not laid out",),
    ),
    "caltech101": PublicDataset(
        "Caltech-101, class folders",
        (
            Folder(
                "caltech101",
                (
                    _archive(
                        "caltech-101.zip",
                        ("https://data.caltech.edu/records/mzrjq-6wc02/files/",),
                        TORCHVISION,
                        137_414_764,
                        md5="3138e1922a9193bfa496528edbbc45d0",
                    ),
                ),
                layouts.caltech101,
                {
                    **_class_folders(101, "jpg", train=3_030, val=5_647),
                    "background/*.jpg": 467,
                },
                160_000_000,
            ),
        ),
        _readout("caltech101"),
        (
            "no split is published: train/ has 30 images of each class (the same ones everywhere), val/ the others",
            "BACKGROUND_Google is no class: its 467 images are in background/, outside train/ and val/",
        ),
    ),
}
