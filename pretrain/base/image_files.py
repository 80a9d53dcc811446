"""The image reader that pre-training, readout and detection share: one file in, one upright RGB array out.

In: a path, or a file's bytes and its name. Out: uint8 (H, W, 3) RGB, or a DataError that names the file and says why.
Whatever the file holds, it is one or the other: no exception of the decoder's own. Source of the rules: docs/specification.md 7.1.

Pillow reads every header and decodes; the pixels of RGB and grey JPEGs come from simplejpeg, which is faster and bit-equal
where it has nothing to object to (tests/pretrain/base/test_image_zoo.py compares them). Whatever it objects to is Pillow's.

| stored as                         | becomes                                                                    |
|-----------------------------------|----------------------------------------------------------------------------|
| RGB, RGBX, L, 1, YCbCr, HSV       | RGB (grey three times; 1-bit is 0 or 255)                                   |
| P                                 | its palette's RGB                                                          |
| RGBA, LA, PA, transparency in P/L | composed on white, as a page would show it                                 |
| CMYK                              | (255 - C)(255 - K) / 255 per channel; JPEGs with Adobe's marker store the inverse |
| 16 bits a grey pixel              | v / 257, rounded (a cast would saturate at 255)                             |
| float, 32-bit integers, LAB       | refused: their range is not known                                          |

`check_image` tells from the header and the end of a file whether `read_image` can read it, without decoding what looks whole.
Colour profiles are not applied; of an animation the first frame is read. Sixteen-bit RGB PNGs lose their low byte.

A JPEG that lacks its last bytes (an interrupted copy; viewers show it all the same) is read if at most MAX_INCOMPLETE of its
rows are incomplete; those are grey where nothing was stored. The limit, 1/16, lets one row of JPEG blocks (16 lines) go from
256 lines on; it is 30 lines of 480, less than the 32 px of what COCO calls a small object, and a sixth of the height of the
flattest crop that covers a fifth of the image. `check_image` reports such a file; a file that lacks more is refused.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pretrain.base.errors import DataError

MAX_PIXELS = 50_000_000
MAX_LARGE_PIXELS = (
    178_000_000  # where the user asks for large images; Pillow itself refuses more than 178,956,970 pixels
)
MAX_INCOMPLETE = 1 / 16  # share of a truncated JPEG's rows
# Formats by name, so that no decoder with a history of running other programs (EPS) or fetching files is reachable.
# (A JPEG of several pictures, MPO, opens as JPEG.) Pillow loads plug-ins late: those outside its core are imported here.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
BACKGROUND = (255, 255, 255)

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS_ON_THE_SIDE = (5, 6, 7, 8)
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "HSV")
_READABLE_MODES = frozenset({*_SIXTEEN_BIT_MODES, *_ALPHA_MODES, *_PLAIN_MODES, "CMYK"})  # whatever the pixels' values
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_MARKER = re.compile(
    rb"\xff+([^\x00\xff\xd0-\xd7])"
)  # but for restart markers, which belong to the data of a scan
_JPEG_SCAN, _JPEG_NOT_FRAMES = 0xDA, (0xC4, 0xC8, 0xCC)
_JPEG_SCAN_MARKER = bytes([_JPEG_SCAN])
# JFIF, comment, tables, restart interval, frames of Huffman codes: nothing of an orientation, of Adobe's or of more pictures.
_JPEG_PLAIN = frozenset(bytes([kind]) for kind in (0xE0, 0xFE, 0xDB, 0xC4, 0xDD, 0xC0, 0xC1, 0xC2))


class TooLargeError(DataError):
    """An image whose header says more pixels than are allowed."""


@dataclass(frozen=True)
class CheckedImage:
    """What `check_image` found in a file that can be read.

    height, width: of the upright image.
    turned: an EXIF orientation exchanges height and width.
    incomplete: what a JPEG without its last bytes lacks; None for a whole file.
    mode: how the pixels are stored, by Pillow's name.
    orientation: by EXIF, 1 to 8; 1 is upright.
    """

    height: int
    width: int
    turned: bool
    incomplete: str | None = None
    mode: str = ""
    orientation: int = 1


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode `path` to uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Raises DataError (path and reason) for a missing, empty, truncated or foreign file, a pixel format outside the table
    above, and, before anything is decoded, TooLargeError where the header says more than `max_pixels` pixels.
    """
    with open_file(path) as file:
        return _decode(file, str(path), max_pixels)[0]


def decode_image(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_image` of a file's bytes; `name` stands for its path in messages."""
    pixels = _plain_jpeg(data, max_pixels)
    return _decode(io.BytesIO(data), name, max_pixels)[0] if pixels is None else pixels


def check_image(path: Path, *, max_pixels: int = MAX_PIXELS, decode: bool = False) -> CheckedImage:
    """Raise DataError, as `read_image` would, for a file whose header or end shows that it cannot be read.

    Only a file that does not end as its format should, or whose format or pixels need a look, is decoded: so every refusal is
    `read_image`'s own, and a truncated file is found; damage inside a file that is whole at both ends is not.
    decode: decode every file, which finds that too.
    """
    with open_file(path) as file:
        return check_open_image(file, name=str(path), max_pixels=max_pixels, decode=decode)


def check_open_image(file: BinaryIO, *, name: str, max_pixels: int = MAX_PIXELS, decode: bool = False) -> CheckedImage:
    """`check_image` of an open file that can seek; `name` stands for its path in messages."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _refuse_bomb(name, image, max_pixels)
            orientation = _orientation(image)
            turned = orientation in _ORIENTATIONS_ON_THE_SIDE
            found = CheckedImage(*_upright_size(image), turned, mode=image.mode, orientation=orientation)
            whole = image.mode in _READABLE_MODES and _ends_well(file, image.format or "")
    except DataError:
        raise
    except Exception as error:  # as in _decode
        raise _refusal(name, file, error) from error
    if whole and not decode:
        return found
    file.seek(0)
    return replace(found, incomplete=_decode(file, name, max_pixels)[1])


def open_file(path: Path) -> BinaryIO:
    """For reading. Raises DataError (path and reason) for a missing file, a folder, one that may not be read."""
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DataError(f"{path}: cannot be opened ({getattr(error, 'strerror', error)})") from error


def _decode(file: BinaryIO, name: str, max_pixels: int) -> tuple[np.ndarray, str | None]:
    """(pixels, what a truncated JPEG lacks)."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _refuse_bomb(name, image, max_pixels)
            if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
                pixels = _fast_jpeg(_content(file))
                if pixels is not None:
                    return _upright(pixels, _orientation(image)), None
            image.load()  # the whole file; a missing row raises. A TIFF is turned here and then says so
            return _upright(_to_rgb(name, image), _orientation(image)), None
    except DataError:
        raise
    except MemoryError:
        raise  # the machine's trouble, not the file's
    except Exception as error:
        # Decoders leak OSError, SyntaxError, ValueError, struct.error, IndexError, ... on damaged files, and warnings
        # where the user turned them into errors. All of them mean: this file cannot be used, unless it is a JPEG that
        # lacks no more than its last bytes.
        try:
            ended = _end_jpeg(_content(file))
        except OSError:  # the disk's trouble; what was said first counts
            ended = None
        if ended is None:
            raise _refusal(name, file, error) from error
        try:
            return _decode_ended_jpeg(name, *ended)
        except (DataError, MemoryError):
            raise
        except Exception:
            raise _refusal(name, file, error) from error


def _plain_jpeg(content: bytes, max_pixels: int) -> np.ndarray | None:
    """Pixels of a JPEG without a segment that Pillow would have to look at, a tenth sooner; None for anything else."""
    position = len(_JPEG_START)
    if not content.startswith(_JPEG_START):
        return None
    while (kind := content[position + 1 : position + 2]) != _JPEG_SCAN_MARKER:
        if content[position : position + 1] != b"\xff" or kind not in _JPEG_PLAIN:
            return None
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if space not in ("YCbCr", "Gray") or height * width > min(max_pixels, MAX_PIXELS):
        return None
    return _fast_jpeg(content)


def _fast_jpeg(content: bytes) -> np.ndarray | None:
    """simplejpeg's pixels; None where it finds anything unusual, a missing or superfluous byte included."""
    try:
        return simplejpeg.decode_jpeg(content, "RGB", strict=True)
    except ValueError:
        return None


def _content(file: BinaryIO) -> bytes:
    """All bytes, and the position as it was."""
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return content


def _decode_ended_jpeg(name: str, ended: bytes, without_last_scan: bytes) -> tuple[np.ndarray, str]:
    """Decode what `_end_jpeg` made. Raises DataError where more than MAX_INCOMPLETE of the rows are incomplete.

    Rows are stored from left to right: one is complete if the last scan changed its last pixel. A row whose last pixel happens
    to have the value that stands for nothing counts as incomplete: a file is refused too often rather than too rarely.
    """
    with Image.open(io.BytesIO(without_last_scan), formats=("JPEG",)) as image:
        blank = np.asarray(image)[:, -1].copy()
    with Image.open(io.BytesIO(ended), formats=("JPEG",)) as image:
        changed = (np.asarray(image)[:, -1] != blank).reshape(len(blank), -1).any(axis=1)
        height = len(blank)
        incomplete = height - int(np.flatnonzero(changed)[-1]) - 1 if changed.any() else height
        if incomplete > MAX_INCOMPLETE * height:
            raise DataError(
                f"{name}: truncated: {incomplete} of its {height} rows are incomplete, at most {int(MAX_INCOMPLETE * height)} "
                "may be"
            )
        lacking = (
            f"{incomplete} of its {height} rows are incomplete" if incomplete else "its last block may be incomplete"
        )
        return _upright(_to_rgb(name, image), _orientation(image)), lacking


def _end_jpeg(content: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG that lacks its last bytes, with an end marker, and the same without the data of its last scan.

    None for a file that is no JPEG, has its end marker, or ends before the last of its scans: a progressive JPEG stores
    the whole picture several times over, each scan finer, and is complete once every coefficient's last bit has a scan.
    (Pillow's LOAD_TRUNCATED_IMAGES adds the same end marker, for the whole process, and accepts anything.)
    """
    if not content.startswith(_JPEG_START):
        return None
    stored: dict[int, set[int]] = {}  # component -> coefficients of which a scan holds the last bit
    position, scan_start = len(_JPEG_START), None
    while (marker := _JPEG_MARKER.search(content, position)) is not None:
        kind, start = marker[1][0], marker.end()
        if kind == _JPEG_END[1]:
            return None
        position = start + int.from_bytes(content[start : start + 2], "big")
        segment = content[start + 2 : position]
        if len(segment) < position - start - 2 or len(segment) < 6:
            continue
        if 0xC0 <= kind <= 0xCF and kind not in _JPEG_NOT_FRAMES:  # precision, height, width, components of 3 bytes
            stored = {component: set() for component in segment[6::3]}
        elif kind == _JPEG_SCAN:  # number of components, components of 2 bytes, first and last coefficient, bits
            scan_start = position
            first, last, bits = segment[-3:]
            if bits & 0xF == 0:  # down to the last bit
                for component in segment[1:-3:2]:
                    stored.setdefault(component, set()).update(range(first, last + 1))
    if scan_start is None or any(len(coefficients) < 64 for coefficients in stored.values()):
        return None
    return content + _JPEG_END, content[:scan_start] + _JPEG_END


def _ends_well(file: BinaryIO, kind: str) -> bool:
    """Whether the last bytes are those of a whole file of this format; False where the format has no such sign (TIFF, PPM)."""
    file.seek(0)
    head = file.read(8)
    length = file.seek(0, 2)
    if kind == "WEBP":  # RIFF, its length, ...
        return length >= int.from_bytes(head[4:8], "little") + 8
    if kind == "BMP":  # BM, its length, ...
        return length >= int.from_bytes(head[2:6], "little") > 54
    end = _ENDS.get(kind)
    if end is None or length < len(end):
        return False
    file.seek(-len(end), 2)
    return file.read() == end


def read_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of what `read_image` would return, from the header alone. Raises DataError as it does."""
    with open_file(path) as file:
        try:
            with Image.open(file, formats=FORMATS) as image:
                _refuse_bomb(str(path), image, max_pixels)
                return _upright_size(image)
        except DataError:
            raise
        except Exception as error:  # as in _decode
            raise _refusal(str(path), file, error) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) once turned. Pillow turns a TIFF itself while loading, and already gives the turned size."""
    width, height = image.size
    on_the_side = image.format != "TIFF" and _orientation(image) in _ORIENTATIONS_ON_THE_SIDE
    return (width, height) if on_the_side else (height, width)


def _refuse_bomb(name: str, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(
            f"{name}: its header says {width} x {height} = {width * height / 1e6:.0f} Mpx; "
            f"expected at most {max_pixels // 1_000_000} Mpx (shrink it or leave it out)"
        )


def _refusal(name: str, file: BinaryIO, error: Exception) -> DataError:
    """The user's error for the decoder's."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return TooLargeError(f"{name}: its header says more than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} Mpx")
    return DataError(f"{name}: {_reason(file, error)}")


def _reason(file: BinaryIO, error: Exception) -> str:
    """Why a file could not be read, in the user's words."""
    try:
        file.seek(0)
        head = file.read(256)
    except OSError as failure:
        return f"cannot be read ({failure.strerror})"
    if not head:
        return "the file is empty (0 bytes)"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a page of HTML or XML, not an image (a download that failed?)"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    return f"damaged or truncated ({type(error).__name__}: {error})"


def _to_rgb(name: str, image: Image.Image) -> np.ndarray:
    """The mode table of the module's docstring."""
    mode = image.mode
    if mode in _SIXTEEN_BIT_MODES or mode == "I":
        return _from_16_bits(name, np.asarray(image), mode)
    if mode in _ALPHA_MODES or (mode in _PLAIN_MODES and "transparency" in image.info):
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        return np.array(Image.alpha_composite(page, rgba).convert("RGB"))
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode in _PLAIN_MODES:
        return np.array(image.convert("RGB"))
    raise DataError(f"{name}: pixels of mode {mode!r}, whose range is not known; convert it to 8-bit RGB")


def _from_16_bits(name: str, values: np.ndarray, mode: str) -> np.ndarray:
    """65535 / 257 = 255, so that 16-bit grey v becomes round(v / 257). "I" is how some formats open 16-bit files."""
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{name}: integer pixels outside [0, 65535] (mode {mode!r}); convert it to 8-bit RGB")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_cmyk(image: Image.Image) -> np.ndarray:
    """Pillow takes every four-channel JPEG for one of Adobe's, which store 255 - ink; without the marker it is plain."""
    inks = np.asarray(image)
    if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        inks = 255 - inks
    light = 255 - inks.astype(np.uint16)
    return ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where it is absent or the EXIF block is broken."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Broken EXIF raises anything at all and must not cost the image: its pixels are sound.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (numbers of the EXIF standard: where row 0 and column 0 of the file belong)."""
    if orientation in _ORIENTATIONS_ON_THE_SIDE:
        pixels = pixels.transpose(1, 0, 2)  # what is left then: 6 and 7 mirrored in x, 7 and 8 in y
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
