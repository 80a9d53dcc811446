"""What identifies a picture: hashes of its file and of its pixels, and small pictures by which copies of it are found.

In: the bytes of image files. Out: `Pictures`. A copy may be re-encoded, resized, flipped, turned, cropped or brightened:

| kept of every picture   | is the same for                                                                              |
|-------------------------|----------------------------------------------------------------------------------------------|
| file hash               | the same file under another name                                                             |
| pixel hash              | the same upright RGB pixels, losslessly stored in another format                             |
| perceptual hash         | flips and quarter turns of it (exactly: of DCT coefficients they change the sign or the place), other sizes and qualities, other shapes of the frame |
| ring spectra            | turns by any angle and mirroring, at four zooms: magnitudes over the angle on 22 rings around the centre |

The perceptual hash is the signs of the 63 lowest DCT coefficients of the picture shrunk to a square (pHash of Zauner 2010, with
the sign in place of the median, so that the eight variants are exact).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_LARGE_PIXELS, decode_image
from pretrain.data.index import Source, in_threads

SIDE = 64  # of the small pictures
LOW = 8  # DCT coefficients a side in the perceptual hash
SMOOTH = 4.0  # px of the small picture: what varies more slowly (light, vignettes) does not count
NUM_ANGLES, NUM_RINGS, FIRST_RING = 64, 24, 2  # of the polar picture; the innermost rings are a few pixels
NUM_FREQUENCIES = 12  # over the angle, of a ring spectrum
ZOOMS = (1.0, 1.11, 1.23, 1.37)  # a copy that was cropped to 0.7 to 1 of its sides meets one of them within 5 %
CENTRE = (SIDE - 1) / 2
# The eight flips and quarter turns: (mirrored left-right first, quarter turns counter-clockwise after that).
DIHEDRAL = tuple((mirrored, turns) for mirrored in (False, True) for turns in range(4))


@dataclass(frozen=True)
class Pictures:
    """N pictures.

    positions (N,): in the source they come from; names: as its messages call them.
    file_hashes, pixel_hashes: of 16 bytes each.
    hashes: uint64 (N, 8), perceptual, of the picture in the variants of DIHEDRAL.
    whole: uint8 (N, 64, 64), the grey picture shrunk to a square, whatever its shape.
    centres: uint8 (N, 64, 64), its largest central square.
    rings: float32 (2, N, zooms, features), ring spectra of `whole` and of `centres`, each of length 1.
    short_sides (N,): of the picture, px.
    unreadable: (name, reason) of those that are not among the N.
    """

    positions: np.ndarray
    names: tuple[str, ...]
    file_hashes: tuple[bytes, ...]
    pixel_hashes: tuple[bytes, ...]
    hashes: np.ndarray
    whole: np.ndarray
    centres: np.ndarray
    rings: np.ndarray
    short_sides: np.ndarray
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Look:
    """What is kept of one picture while it is decoded."""

    file_hash: bytes
    pixel_hash: bytes
    whole: np.ndarray
    centre: np.ndarray
    short_side: int


def read_pictures(source: Source, positions: Sequence[int] | None = None, *, show_progress: bool = False) -> Pictures:
    """Decode the images of a source (all, or those at `positions`) and keep what identifies them."""
    chosen = list(range(len(source))) if positions is None else list(positions)
    found = in_threads(partial(_look, source), chosen, what="hashing images", show_progress=show_progress)
    good = [(position, look) for position, look in zip(chosen, found, strict=True) if isinstance(look, _Look)]
    looks = [look for _, look in good]
    whole = np.stack([look.whole for look in looks]) if looks else np.zeros((0, SIDE, SIDE), np.uint8)
    centres = np.stack([look.centre for look in looks]) if looks else np.zeros((0, SIDE, SIDE), np.uint8)
    return Pictures(
        np.array([position for position, _ in good], np.int64),
        tuple(source.where(position) for position, _ in good),
        tuple(look.file_hash for look in looks),
        tuple(look.pixel_hash for look in looks),
        perceptual_hashes(whole),
        whole,
        centres,
        np.stack([ring_spectra(whole), ring_spectra(centres)]),
        np.array([look.short_side for look in looks], np.int64),
        tuple(
            (source.where(position), look)
            for position, look in zip(chosen, found, strict=True)
            if isinstance(look, str)
        ),
    )


def _look(source: Source, position: int) -> _Look | str:
    where = source.where(position)
    try:
        content = source.read(position)
        pixels = decode_image(content, name=where, max_pixels=MAX_LARGE_PIXELS)
    except DataError as error:
        return str(error).removeprefix(f"{where}: ")
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width} x {height} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _Look(
        hashlib.blake2b(content, digest_size=16).digest(),
        digest.digest(),
        _shrunk(grey),
        _shrunk(grey[top : top + side, left : left + side]),
        side,
    )


def _shrunk(grey: np.ndarray) -> np.ndarray:
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def variant(pictures: np.ndarray, mirrored: bool, turns: int) -> np.ndarray:
    """(N, side, side) flipped and turned as an entry of DIHEDRAL says."""
    return np.rot90(pictures[:, :, ::-1] if mirrored else pictures, turns, axes=(1, 2))


def perceptual_hashes(pictures: np.ndarray) -> np.ndarray:
    """uint8 (N, 64, 64) -> uint64 (N, 8): the hash of each variant of DIHEDRAL."""
    angles = np.pi * (2 * np.arange(SIDE)[None] + 1) * np.arange(LOW)[:, None] / (2 * SIDE)
    basis = np.cos(angles).astype(np.float32)
    low = basis @ pictures.astype(np.float32) @ basis.T  # (N, 8, 8): down, across
    sign = np.where(np.arange(LOW) % 2, -1.0, 1.0).astype(np.float32)  # of a coefficient whose picture is mirrored
    found = np.zeros((len(pictures), len(DIHEDRAL)), np.uint64)
    for number, (mirrored, turns) in enumerate(DIHEDRAL):
        turned = low * sign if mirrored else low
        for _ in range(turns):  # a quarter turn counter-clockwise: transposed, then mirrored top-bottom
            turned = turned.transpose(0, 2, 1) * sign[:, None]
        bits = turned.reshape(len(pictures), LOW * LOW) > 0
        bits[:, 0] = False  # the mean
        found[:, number] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return found


def detail(picture: np.ndarray, *, zoom: float = 1.0) -> np.ndarray:
    """float32: the small picture without what varies slowly."""
    values = picture.astype(np.float32)
    return values - cv2.GaussianBlur(values, (0, 0), SMOOTH / zoom)


def polar(picture: np.ndarray, *, zoom: float = 1.0) -> np.ndarray:
    """float32 (angles, rings): detail on rings around the centre, each weighted by the root of its length."""
    values = detail(picture, zoom=zoom)
    rings = cv2.warpPolar(values, (NUM_RINGS, NUM_ANGLES), (CENTRE, CENTRE), CENTRE / zoom, cv2.INTER_LINEAR)
    return rings[:, FIRST_RING:] * np.sqrt(np.arange(FIRST_RING, NUM_RINGS, dtype=np.float32))


def ring_spectra(pictures: np.ndarray) -> np.ndarray:
    """uint8 (N, 64, 64) -> float32 (N, zooms, features); see the module."""
    size = NUM_FREQUENCIES * (NUM_RINGS - FIRST_RING)
    spectra = np.zeros((len(pictures), len(ZOOMS), size), np.float32)
    for number, picture in enumerate(pictures):
        rings = np.stack([polar(picture, zoom=zoom) for zoom in ZOOMS])
        magnitudes = np.abs(np.fft.rfft(rings, axis=1))[:, :NUM_FREQUENCIES]
        spectra[number] = np.sqrt(magnitudes).reshape(len(ZOOMS), size)
    return spectra / np.maximum(np.linalg.norm(spectra, axis=2, keepdims=True), 1e-6)
