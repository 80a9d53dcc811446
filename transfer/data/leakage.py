"""Test images that are also in the training images or in the unlabelled pool: exact copies and changed ones.

In: pool, training and test images (a folder, list, archive or SPEC each). Out: `Leak`s with the change and the distance.

1. Exact: the same file, or the same pixels stored in another format.
2. Flips and quarter turns of a picture that was re-encoded, resized or brightened: perceptual hashes of all eight variants
   within MAX_BITS.
3. Turns by any other angle, and crops: the nearest ring spectra, then the angle at which the rings agree.

Whatever 2 and 3 propose is only a leak once confirmed: one small picture is moved onto the other to a fraction of a pixel (ECC,
Evangelidis and Psarakis 2008), and then *everywhere* where there is any detail the two must agree. That is what tells a copy
from another picture of the same kind: microscopy fields and product photos on one background share their layout, not their detail.

Thresholds, measured on Caltech-101, COCO and BCCD photos: copies (JPEG quality 30, halved, any angle, crops to 0.8, brightness
+-25 %) agree by 0.84 and more, different COCO and BCCD pictures by 0.5 at most. Pictures with a short side below SMALL px (digits, CIFAR) hold less detail, and are called copies only where they
nearly coincide.

Not found: a crop to less than 0.7 of the sides or far from the centre, pictures without detail that are not pixel-equal,
pasted parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pretrain.data.index import Source
from pretrain.data.source import ImageSource, open_source
from transfer.data.findings import Finding
from transfer.data.picture_hashes import (
    CENTRE,
    DIHEDRAL,
    NUM_ANGLES,
    SIDE,
    ZOOMS,
    Pictures,
    detail,
    polar,
    read_pictures,
    variant,
)

Kind = Literal["file", "pixels", "near"]
Split = Literal["pool", "training data"]
CHUNK = 2048  # pictures of the pool in memory at a time
MAX_BITS = 14  # of 63; copies differ by 8 at most (resized, JPEG 30, +-25 % brightness)
MIN_CORRELATION = 0.3  # of the whole details, before they are moved onto each other
MIN_SPECTRUM = 0.93  # cosine of two ring spectra; copies have 0.95 and more
STRETCHED_ZOOMS = 2  # of ZOOMS that are tried with pictures whose frames were stretched to squares
NEAREST = 3  # pictures with the nearest spectra that are looked at, for each picture and zoom
MIN_RINGS = 0.5  # correlation of the rings at the best angle; copies have 0.56 and more
MIN_START = 0.45  # agreement before the alignment; copies have 0.56 and more
MIN_AGREEMENT = 0.8  # mean of the local correlations
MIN_LOW_AGREEMENT = 0.5  # their tenth percentile
CLEAR = 0.8  # tenth percentile with which there is nothing to align
SMALL, MIN_SMALL_AGREEMENT = 48, 0.95
WINDOW = 7  # px of the small picture, over which a local correlation is taken
NOISE = 4.0  # variance of grey levels that is no detail
MIN_DETAIL = 0.03  # share of the small picture that holds detail; with less nothing can be confirmed


@dataclass(frozen=True)
class Leak:
    """A test image that is also elsewhere.

    test, other: the two images. split: where the other one is. position: of the other one in its source.
    kind: the same file, the same pixels, or a changed copy.
    transformation: what turns the test image into the other one: "none", "mirrored, turned by 90 degrees", "zoomed 1.2".
    distance: 1 - agreement of the details, 0 (the same) to 0.2.
    """

    test: str
    other: str
    split: Split
    position: int
    kind: Kind
    transformation: str
    distance: float

    def line(self) -> str:
        """For a list."""
        how = {"file": "the same file", "pixels": "the same pixels"}.get(self.kind) or (
            f"a copy, {self.transformation}, distance {self.distance:.2f}"
        )
        return f"{self.test} is in the {self.split}: {self.other} ({how})"


Images = Source | str | Path


def open_images(images: Images) -> Source:
    """A source, whatever names it: one of `pretrain.data.source`, or the images of a SPEC. Raises DataError, ConfigError."""
    if isinstance(images, Source):
        return images
    from transfer.data.doctor import SPEC_START, listed_images  # which needs Detectron2, as every SPEC does

    if isinstance(images, str) and SPEC_START.match(images):
        return ImageSource(Path(), listed_images(images))
    return open_source(images)


def find_leakage(
    pool: Images | None,
    train: Images | None,
    test: Images,
    *,
    show_progress: bool = False,
    on_unreadable: Callable[[str, str], None] = lambda name, reason: None,
) -> list[Leak]:
    """Every test image that is in the training data or in the pool, sorted by test image; each pair once.

    on_unreadable: called with the name and the reason of each image that cannot be compared. Raises DataError where there are no
    images at all.
    """
    tested = read_pictures(open_images(test), show_progress=show_progress)
    for name, reason in tested.unreadable:
        on_unreadable(name, reason)
    leaks: list[Leak] = []
    others: tuple[tuple[Split, Images | None], ...] = (("training data", train), ("pool", pool))
    for split, images in others:
        if images is None:
            continue
        source = open_images(images)
        for start in range(0, len(source), CHUNK):
            chunk = range(start, min(start + CHUNK, len(source)))
            pictures = read_pictures(source, chunk, show_progress=show_progress)
            for name, reason in pictures.unreadable:
                on_unreadable(name, reason)
            leaks += compare_pictures(tested, pictures, split=split)
    return sorted(leaks, key=lambda leak: (leak.test, leak.split, leak.distance, leak.other))


def compare_pictures(tested: Pictures, others: Pictures, *, split: Split) -> list[Leak]:
    """The pairs of pictures that are copies of each other."""
    found: dict[tuple[int, int], Leak] = {}

    def add(one: int, other: int, kind: Kind, transformation: str, distance: float) -> None:
        old = found.get((one, other))
        if old is None or distance < old.distance:
            position = int(others.positions[other])
            found[one, other] = Leak(
                tested.names[one], others.names[other], split, position, kind, transformation, distance
            )

    for one, other in _equal(tested.file_hashes, others.file_hashes):
        add(one, other, "file", "none", 0.0)
    for one, other in _equal(tested.pixel_hashes, others.pixel_hashes):
        if (one, other) not in found:
            add(one, other, "pixels", "none", 0.0)
    exact = set(found)
    for one, other, number in _near_hashes(tested, others):
        if (one, other) not in exact:
            small = min(tested.short_sides[one], others.short_sides[other]) < SMALL
            mirrored, turns = DIHEDRAL[number]
            picture = np.ascontiguousarray(variant(tested.whole[one : one + 1], mirrored, turns)[0])
            agreement, moved = confirm(picture, others.whole[other], IDENTITY, align=not small)
            if _is_copy(agreement, tested.short_sides[one], others.short_sides[other]):
                name = described(moved @ _dihedral_matrix(mirrored, turns))
                add(one, other, "near", name, 1 - agreement.mean)
    # A copy whose frame kept its shape has the same central square; one that was stretched first, the same whole.
    for shape, (ones, places) in enumerate(((tested.whole, others.whole), (tested.centres, others.centres))):
        near = _near_rings(
            (tested.rings[shape], ones, tested.short_sides >= SMALL),
            (others.rings[shape], places, others.short_sides >= SMALL),
            zooms=(STRETCHED_ZOOMS, len(ZOOMS))[shape],
            skip=set(found),
        )
        for one, other, matrix in near:
            agreement, moved = confirm(ones[one], places[other], matrix, disc=True)
            if _is_copy(agreement, tested.short_sides[one], others.short_sides[other]):
                add(one, other, "near", described(moved), 1 - agreement.mean)
    return list(found.values())


def _equal(one: Sequence[bytes], other: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    places: dict[bytes, list[int]] = {}
    for position, digest in enumerate(other):
        places.setdefault(digest, []).append(position)
    for position, digest in enumerate(one):
        for place in places.get(digest, ()):
            yield position, place


# Candidates


def _near_hashes(tested: Pictures, others: Pictures) -> Iterator[tuple[int, int, int]]:
    """(test picture, other picture, number of the variant) of perceptual hashes within MAX_BITS whose details correlate."""
    reference = others.hashes[:, 0]
    target = _unit_details(others.whole)
    for number, (mirrored, turns) in enumerate(DIHEDRAL):
        for start in range(0, len(tested), CHUNK):
            bits = np.bitwise_count(tested.hashes[start : start + CHUNK, number, None] ^ reference[None])
            rows, columns = np.nonzero(bits <= MAX_BITS)
            if not len(rows):
                continue
            needed, rows_of = np.unique(rows, return_inverse=True)
            details = _unit_details(variant(tested.whole[start + needed], mirrored, turns))
            for part in range(0, len(rows), CHUNK):
                some = slice(part, part + CHUNK)
                correlation = np.einsum("ij,ij->i", details[rows_of[some]], target[columns[some]])
                for place in np.flatnonzero(correlation >= MIN_CORRELATION):
                    yield start + int(rows[some][place]), int(columns[some][place]), number


def _unit_details(pictures: np.ndarray) -> np.ndarray:
    """float32 (N, 4096), mean 0 and length 1."""
    found = np.empty((len(pictures), SIDE * SIDE), np.float32)
    for number, picture in enumerate(pictures):
        found[number] = detail(picture).ravel()
    found -= found.mean(axis=1, keepdims=True)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def _near_rings(
    tested: tuple[np.ndarray, np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    zooms: int,
    skip: set[tuple[int, int]],
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(test picture, other picture, matrix that starts the alignment) of those whose rings agree at some angle.

    zooms: how many of ZOOMS are tried. tested, others: ring spectra (N, zooms, features), the small pictures, and which of them take part (N,).
    """
    (spectra, pictures, large), (other_spectra, other_pictures, others_large) = tested, others
    pairs: dict[tuple[int, int], tuple[float, int, int]] = {}
    combinations = [(0, number) for number in range(zooms)] + [(number, 0) for number in range(1, zooms)]
    for start in range(0, len(pictures), CHUNK):
        for one_zoom, other_zoom in combinations:
            cosines = spectra[start : start + CHUNK, one_zoom] @ other_spectra[:, other_zoom].T
            near = cosines >= MIN_SPECTRUM
            near[~large[start : start + CHUNK]] = False
            near[:, ~others_large] = False
            for row in np.flatnonzero(near.any(axis=1)):
                places = np.flatnonzero(near[row])
                if len(places) > NEAREST:
                    places = places[np.argpartition(cosines[row, places], -NEAREST)[-NEAREST:]]
                for place in places:
                    pair, value = (start + int(row), int(place)), float(cosines[row, place])
                    if pair not in skip and value > pairs.get(pair, (0.0, 0, 0))[0]:
                        pairs[pair] = value, one_zoom, other_zoom
    spectrum_of = _AngleSpectra(pictures), _AngleSpectra(other_pictures)
    for (one, other), (_, one_zoom, other_zoom) in pairs.items():
        spectrum, wanted = spectrum_of[0](one, one_zoom), spectrum_of[1](other, other_zoom)
        agreement, angle, mirrored = _best_angle(spectrum, wanted)
        if agreement >= MIN_RINGS:
            yield one, other, _turn_matrix(angle, mirrored=mirrored, zoom=ZOOMS[one_zoom] / ZOOMS[other_zoom])


class _AngleSpectra:
    """Complex spectra over the angle (frequencies, rings), of length 1, of small pictures at a zoom; each is computed once."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        self.known: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, number: int, zoom: int) -> np.ndarray:
        found = self.known.get((number, zoom))
        if found is None:
            rings = polar(self.pictures[number], zoom=ZOOMS[zoom])
            found = (np.fft.rfft(rings, axis=0) / max(float(np.linalg.norm(rings)), 1e-6)).astype(np.complex64)
            self.known[number, zoom] = found
        return found


# What a mirrored picture has at an angle, the picture has at 180 degrees minus that angle.
_MIRRORING = np.exp(-1j * np.pi * np.arange(NUM_ANGLES // 2 + 1)).astype(np.complex64)[:, None]


def _best_angle(spectrum: np.ndarray, wanted: np.ndarray) -> tuple[float, float, bool]:
    """(correlation, angle in degrees, mirrored) at which a picture's rings, or those of its mirror image, agree best with others."""
    mirrored = np.conj(spectrum) * _MIRRORING
    products = np.stack([(np.conj(one) * wanted).sum(axis=1) for one in (spectrum, mirrored)])
    correlations = np.fft.irfft(products, NUM_ANGLES, axis=1)
    row, place = divmod(int(correlations.argmax()), NUM_ANGLES)
    return float(correlations[row, place]), place * 360 / NUM_ANGLES, bool(row)


# Confirmation. A matrix is 3 x 3, in pixels from the centre of the small picture, from a place of the test picture to the
# other's; the axes are x to the right and y down.

IDENTITY = np.eye(3)


@dataclass(frozen=True)
class Agreement:
    """Of the local correlations of two pictures where they hold detail: mean and tenth percentile; -1 where none is taken."""

    mean: float
    low: float


NONE = Agreement(-1.0, -1.0)


def confirm(
    picture: np.ndarray, other: np.ndarray, matrix: np.ndarray, *, disc: bool = False, align: bool = True
) -> tuple[Agreement, np.ndarray]:
    """Move `picture` onto `other`, starting from `matrix`, and compare them; the agreement and the matrix found.

    disc: only the central disc counts, since a turned picture has its corners from elsewhere. align: False compares them as
    `matrix` has them.
    """
    start = _for_opencv(matrix)
    agreement = _agreement(picture, other, start, disc=disc)
    if not align or agreement.mean < MIN_START or agreement.low >= CLEAR:
        return agreement, matrix
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    whole = np.full_like(picture, 255)
    try:
        _, found = cv2.findTransformECC(other, picture, start.copy(), cv2.MOTION_AFFINE, criteria, whole, 5)
    except cv2.error:  # it does not converge: these are different pictures
        return agreement, matrix
    moved = _agreement(picture, other, found, disc=disc)
    return (moved, _from_opencv(found)) if moved.mean > agreement.mean else (agreement, matrix)


def _is_copy(agreement: Agreement, *short_sides: int) -> bool:
    if min(short_sides) < SMALL:
        return agreement.mean >= MIN_SMALL_AGREEMENT
    return agreement.mean >= MIN_AGREEMENT and agreement.low >= MIN_LOW_AGREEMENT


def _agreement(picture: np.ndarray, other: np.ndarray, matrix: np.ndarray, *, disc: bool) -> Agreement:
    """matrix: OpenCV's 2 x 3, from a place of `other` to the picture's."""
    if not np.isfinite(matrix).all():
        return NONE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=flags).astype(np.float32)
    inside = cv2.warpAffine(np.full_like(picture, 255), matrix, (SIDE, SIDE), flags=flags) > 250
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    if disc:
        inside &= _DISC
    wanted = other.astype(np.float32)
    mean_one, mean_other = _box(moved), _box(wanted)
    variance_one = np.maximum(_box(moved * moved) - mean_one**2, 0)
    variance_other = np.maximum(_box(wanted * wanted) - mean_other**2, 0)
    covariance = _box(moved * wanted) - mean_one * mean_other
    correlation = covariance / np.sqrt((variance_one + NOISE) * (variance_other + NOISE))
    counted = inside & (np.maximum(variance_one, variance_other) > 9 * NOISE)
    if counted.sum() < MIN_DETAIL * SIDE * SIDE or inside.sum() < 0.3 * SIDE * SIDE:
        return NONE
    values = correlation[counted]
    return Agreement(float(values.mean()), float(np.quantile(values, 0.1)))


def _box(values: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(values, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT)


_GRID = np.arange(SIDE) - CENTRE
_DISC = _GRID[:, None] ** 2 + _GRID[None] ** 2 < (0.47 * SIDE) ** 2
_TO_CENTRE = np.array([[1, 0, -CENTRE], [0, 1, -CENTRE], [0, 0, 1]])


def _for_opencv(matrix: np.ndarray) -> np.ndarray:
    """Its 2 x 3 form leads from the other picture back to the first, in pixels from the corner."""
    return (np.linalg.inv(_TO_CENTRE) @ np.linalg.inv(matrix) @ _TO_CENTRE)[:2].astype(np.float32)


def _from_opencv(matrix: np.ndarray) -> np.ndarray:
    square = np.vstack([matrix.astype(np.float64), [0, 0, 1]])
    if abs(np.linalg.det(square)) < 1e-6:
        return IDENTITY
    return _TO_CENTRE @ np.linalg.inv(square) @ np.linalg.inv(_TO_CENTRE)


def _turn_matrix(angle: float, *, mirrored: bool, zoom: float) -> np.ndarray:
    """Mirrored left-right first, then turned clockwise on the screen by `angle` degrees (y points down), then enlarged."""
    cosine, sine = np.cos(np.deg2rad(angle)) * zoom, np.sin(np.deg2rad(angle)) * zoom
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return turn @ np.diag([-1.0, 1, 1]) if mirrored else turn


def _dihedral_matrix(mirrored: bool, turns: int) -> np.ndarray:
    return _turn_matrix(-90.0 * turns, mirrored=mirrored, zoom=1.0)


def described(matrix: np.ndarray) -> str:
    """What a matrix does, in words: "mirrored, turned by 12 degrees, zoomed 1.2"; turns are counter-clockwise."""
    linear = matrix[:2, :2]
    mirrored = np.linalg.det(linear) < 0
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    angle = -np.rad2deg(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    angle = round(float(angle)) % 360
    zoom = float(np.sqrt(abs(np.linalg.det(linear))))
    words = [] if not mirrored else ["mirrored top-bottom" if angle == 180 else "mirrored left-right"]
    if angle and not (mirrored and angle == 180):
        words.append(f"turned by {angle} degrees")
    if abs(zoom - 1) > 0.02:
        words.append(f"zoomed {zoom:.2f}")
    return ", ".join(words) or "none"


# What to do about them


def leakage_findings(leaks: Sequence[Leak], *, allow_pool: bool = False) -> list[Finding]:
    """One for each leak: "leakage/exact" or "leakage/near". allow_pool: those of the pool are warnings, else errors as all are."""
    change = {
        "pool": "leave the image out of the pool (compare does so by itself), or pass --allow-leaks",
        "training data": "keep the image in one of the two splits",
    }
    return [
        Finding(
            "leakage/near" if leak.kind == "near" else "leakage/exact",
            "warning" if allow_pool and leak.split == "pool" else "error",
            leak.test,
            leak.line().removeprefix(f"{leak.test} "),
            change[leak.split],
        )
        for leak in leaks
    ]
