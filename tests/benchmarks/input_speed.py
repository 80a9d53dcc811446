"""How fast a JPEG becomes views, against the reference's own transforms and against bare decoding, one thread.

    python tests/benchmarks/input_speed.py --images FOLDER [--num-images 64] [--rounds 9] [--output input.json]

In: a folder of photographs (JPEG). Out: milliseconds an image (median, [smallest-largest] of the rounds) and ratios. A round
takes every image through bare decoding, the reference and ours, in turns of a few images, so that whatever else the machine does
is shared; a ratio is one round's, and its median over the rounds is what counts. Times are the thread's on the processor. Bare
decoding is simplejpeg's of the whole picture to RGB, into an array that the next one reuses.

The reference is PyContrast's datasets/util.py written out from its description [specification 1.4, 1.6]: PIL decodes once, each
view is torchvision's transforms on PIL images, then ToTensor and Normalize. `moco_v2` blurs by Pillow; `infomin` by a 23-tap
convolution, with timm's RandAugment (where the reference has its own from) and nine patches. Ours is what a loader process runs,
`ViewDataset` of a batch's keys, and ends in bytes: the device normalises.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
import torch  # noqa: E402
import torchvision.transforms as T  # noqa: E402
import torchvision.transforms.functional as F  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402
from timm.data.auto_augment import rand_augment_transform  # noqa: E402
from torch import Tensor  # noqa: E402

from pretrain.base.contract import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from pretrain.data.index import Names, Source  # noqa: E402
from pretrain.data.loader import ViewDataset  # noqa: E402
from pretrain.views.pipeline import ViewMaker  # noqa: E402
from pretrain.views.recipes import RECIPES  # noqa: E402

SIDE, CELL, PATCH, GRID = 224, 85, 64, 3
RANDAUGMENT = {"translate_const": 100, "img_mean": (124, 116, 104)}
TURN = 16  # images that a chain takes before the next has its turn: caches hold what they hold in a run
Chain = Callable[[range], Any]  # positions of the photographs that it takes


class Photos(Source):
    """JPEGs in memory."""

    root = "memory"

    def __init__(self, contents: Sequence[bytes]) -> None:
        self.contents = contents
        self.names = Names(str(number) for number in range(len(contents)))

    def open(self, index: int) -> BinaryIO:
        return io.BytesIO(self.contents[index])

    def stats(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([len(data) for data in self.contents]), np.zeros(len(self), np.int64)

    def take(self, positions: np.ndarray) -> Source:
        return Photos([self.contents[position] for position in positions])


class PillowBlur:
    """MoCo v2's."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class ConvolutionBlur:
    """InfoMin's: 23 taps along either axis as a depthwise convolution of a float tensor, mirrored border."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        offsets = np.arange(-11, 12)
        taps = torch.from_numpy(np.exp(-(offsets**2) / (2 * np.random.uniform(0.1, 2.0) ** 2))).float()
        taps = (taps / taps.sum()).view(1, 1, -1, 1).repeat(3, 1, 1, 1)
        with torch.no_grad():
            values = torch.nn.functional.pad(F.to_tensor(picture)[None], (11,) * 4, mode="reflect")
            values = torch.nn.functional.conv2d(values, taps, groups=3)
            values = torch.nn.functional.conv2d(values, taps.transpose(2, 3), groups=3)
        return F.to_pil_image(values[0])


def to_input() -> list[Any]:
    """The end of every chain of the reference."""
    return [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


def reference_view(name: str) -> T.Compose:
    """One view of recipe `name`: PIL image -> float32 (3, 224, 224)."""
    strength = (0.4, 0.4, 0.4, 0.1) if name == "moco_v2" else (0.8, 0.8, 0.8, 0.2)
    jitter, grey = T.RandomApply([T.ColorJitter(*strength)], p=0.8), T.RandomGrayscale(p=0.2)
    start = [T.RandomResizedCrop(SIDE, scale=(0.2, 1.0)), T.RandomHorizontalFlip(), jitter]
    if name == "moco_v2":
        return T.Compose([*start, grey, T.RandomApply([PillowBlur()], p=0.5), *to_input()])
    blur, augment = (
        T.RandomApply([ConvolutionBlur()], p=0.5),
        rand_augment_transform("rand-m10-n2-mstd0.5", RANDAUGMENT),
    )
    return T.Compose([*start, blur, augment, grey, *to_input()])


def reference_patches() -> Callable[[Image.Image], Tensor]:
    """Nine patches: PIL image -> float32 (9, 3, 64, 64)."""
    board = T.Compose([T.RandomResizedCrop(GRID * CELL, scale=(0.6, 1.0)), T.RandomHorizontalFlip()])
    patch = T.Compose([T.RandomCrop(PATCH), *to_input()])

    def cut(picture: Image.Image) -> Tensor:
        whole = board(picture)
        corners = [(CELL * column, CELL * row) for row in range(GRID) for column in range(GRID)]
        return torch.stack([patch(whole.crop((x, y, x + CELL, y + CELL))) for x, y in corners])

    return cut


def reference(name: str, photos: Sequence[bytes]) -> Chain:
    """Bytes -> two views, and with `infomin` nine patches."""
    view, cut = reference_view(name), reference_patches()

    def one(data: bytes) -> Any:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return view(picture), view(picture), cut(picture) if name == "infomin" else None

    return each(one, photos)


def ours(name: str, photos: Sequence[bytes]) -> Chain:
    """The same, a batch at a time."""
    views = ViewMaker(RECIPES[name], image_size=SIDE, patch_size=PATCH if name == "infomin" else None)
    dataset, turns = ViewDataset(Photos(photos), views, seed=0), itertools.count()

    def chain(positions: range) -> None:
        epoch = next(turns)
        dataset[[(epoch, position) for position in positions]]

    return chain


def each(one: Callable[[bytes], Any], photos: Sequence[bytes]) -> Chain:
    """`one` of every photograph, of which nothing is kept."""

    def chain(positions: range) -> None:
        for position in positions:
            one(photos[position])

    return chain


def measure(photos: Sequence[bytes], *, rounds: int = 9) -> dict[str, Any]:
    """Milliseconds an image and ratios, see the module; sets the threads of torch and OpenCV to one."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    chains: dict[str, Chain] = {
        "decode": each(simplejpeg.decode_jpeg, photos),
        "decode, PIL": each(_decode_by_pillow, photos),
    }
    for name in ("moco_v2", "infomin"):
        chains |= {f"{name}, reference": reference(name, photos), f"{name}, ours": ours(name, photos)}
    times = [_round(chains, len(photos)) for _ in range(rounds + 1)][1:]  # the first one warms up
    found: dict[str, Any] = {
        "images": len(photos),
        "bytes_an_image": round(statistics.mean(len(data) for data in photos)),
        "ms_an_image": {name: _spread([taken[name] for taken in times]) for name in chains},
    }
    for name in ("moco_v2", "infomin"):
        against = {"times_reference": f"{name}, reference", "times_decode": "decode"}
        found[name] = {key: _spread([_ratio(taken, name, other) for taken in times]) for key, other in against.items()}
    return found


def _ratio(taken: dict[str, float], name: str, other: str) -> float:
    """How many times faster than the reference, or slower than decoding, ours was."""
    own = taken[f"{name}, ours"]
    return own / taken[other] if other == "decode" else taken[other] / own


def _decode_by_pillow(data: bytes) -> None:
    Image.open(io.BytesIO(data)).convert("RGB")


def _round(chains: dict[str, Chain], num_photos: int) -> dict[str, float]:
    total = dict.fromkeys(chains, 0.0)
    for first in range(0, num_photos, TURN):
        for name, chain in chains.items():
            start = time.thread_time()
            chain(range(first, min(first + TURN, num_photos)))
            total[name] += time.thread_time() - start
    return {name: 1000 * seconds / num_photos for name, seconds in total.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "smallest": round(min(values), 3),
        "largest": round(max(values), 3),
    }


def read_photos(folder: Path, count: int) -> list[bytes]:
    """The first `count` JPEGs of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if not paths:
        raise SystemExit(f"{folder}: expected photographs (.jpg), found none; pass --images FOLDER")
    return [path.read_bytes() for path in paths]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ROOT.parent / "shared" / "data" / "coco" / "train2017")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    found = measure(read_photos(arguments.images, arguments.num_images), rounds=arguments.rounds)
    print(f"{found['images']} photographs of {found['bytes_an_image'] / 1000:.0f} kB, one thread")
    for name, value in found["ms_an_image"].items():
        print(f"{name:22s} {value['median']:7.2f} ms [{value['smallest']:.2f}-{value['largest']:.2f}]")
    for name in ("moco_v2", "infomin"):
        for key, value in found[name].items():
            print(f"{name:10s} {key:16s} {value['median']:6.2f} [{value['smallest']:.2f}-{value['largest']:.2f}]")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
