"""A zoo of image files, made here: name -> bytes with the array that they must become, or the words of the refusal.

Expected arrays come from the pixels that were stored, by arithmetic written out here; of lossy files from Pillow's own decoder,
which must lie near the stored pixels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from pretrain.base.image_files import MAX_PIXELS


@dataclass(frozen=True)
class Animal:
    """A file: what it must become, by how many grey levels a value may differ from it, or a pattern of the DataError."""

    content: bytes
    expected: np.ndarray | None = None
    tolerance: int = 0
    refusal: str = ""


def picture(height: int = 24, width: int = 37) -> np.ndarray:
    """Smooth colour, unequal along every axis, so that a wrong flip or channel shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], 2).astype(
        np.uint8
    )


def noise(height: int = 65, width: int = 51) -> np.ndarray:
    """Detail in every block, on which two decoders of JPEG differ if they can."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    """EXIF with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# What an upright viewer shows of stored pixels, for each EXIF orientation.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: np.rot90,
}


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame promises another size than its scan holds."""
    content = bytearray(saved(picture(), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def with_segment(content: bytes, marker: bytes, data: bytes) -> bytes:
    """A JPEG with a segment more, behind its first two bytes."""
    return content[:2] + marker + struct.pack(">H", len(data) + 2) + data + content[2:]


def without_segment(content: bytes, marker: bytes) -> bytes:
    """A JPEG less its first segment of this kind."""
    place = content.index(marker)
    return content[:place] + content[place + 2 + struct.unpack(">H", content[place + 2 : place + 4])[0] :]


def grey3(grey: np.ndarray) -> np.ndarray:
    """Three equal channels."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composed on a white page."""
    weight = alpha[:, :, None] / 255
    return np.rint(colour * weight + 255 * (1 - weight)).astype(np.uint8)


def printed(inks: np.ndarray) -> np.ndarray:
    """CMYK: the light that the inks leave."""
    light = 255 - inks.astype(float)
    return np.rint(light[:, :, :3] * light[:, :, 3:] / 255).astype(np.uint8)


def by_pillow(content: bytes) -> np.ndarray:
    """Pillow's pixels as stored, not turned."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _jpegs() -> dict[str, Animal]:
    """RGB and grey JPEGs, each as Pillow decodes it, bit for bit."""
    found: dict[str, bytes] = {
        "progressive.jpg": saved(noise(), "JPEG", quality=85, progressive=True),
        "optimised.jpg": saved(noise(), "JPEG", quality=85, optimize=True),
        "restart.jpg": saved(noise(), "JPEG", restart_marker_blocks=2),
        "quality_1.jpg": saved(noise(), "JPEG", quality=1),
        "quality_100.jpg": saved(noise(), "JPEG", quality=100),
        "rgb_stored.jpg": saved(noise(), "JPEG", keep_rgb=True),
        "grey.jpg": saved(noise()[:, :, 0], "JPEG"),
        "grey_progressive.jpg": saved(noise()[:, :, 0], "JPEG", progressive=True),
        "dot.jpg": saved(noise(1, 1), "JPEG"),
        "flat_strip.jpg": saved(noise(3, 400), "JPEG"),
        "comment.jpg": with_segment(saved(noise(), "JPEG"), b"\xff\xfe", b"a comment"),
        "trailing_bytes.jpg": saved(noise(), "JPEG") + b"bytes that follow the end",
        "icc.jpg": saved(
            picture(), "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        "two_pictures.mpo": saved(
            Image.fromarray(noise()), "MPO", save_all=True, append_images=[Image.fromarray(picture())]
        ),
        "wrong_suffix.png": saved(noise(), "JPEG"),
    }
    for name in ("444", "422", "420", "440", "411"):
        found[f"{name}.jpg"] = simplejpeg.encode_jpeg(noise(), 85, "RGB", name)
    animals = {name: Animal(content, by_pillow(content)) for name, content in found.items()}
    plain = saved(picture(), "JPEG")
    for name, exif in (
        ("text", b"Exif\0\0garbage"),
        ("offset", b"Exif\0\0II*\0\xff\xff\xff\xff"),
        ("end", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    ):  # costs nothing but the orientation
        animals[f"broken_exif_{name}.jpg"] = Animal(with_segment(plain, b"\xff\xe1", exif), by_pillow(plain))
    return animals


def _turned() -> dict[str, Animal]:
    found = {}
    for number, upright in UPRIGHT.items():
        for suffix, kind, options in (
            ("jpg", "JPEG", {}),
            ("png", "PNG", {}),
            ("tif", "TIFF", {}),
            ("webp", "WEBP", {"lossless": True}),
        ):
            plain = by_pillow(saved(picture(), kind, **options))
            content = saved(picture(), kind, exif=turned(number), **options)
            found[f"orientation_{number}.{suffix}"] = Animal(content, upright(plain))
    for number in (0, 9, 300):
        found[f"orientation_{number}.png"] = Animal(saved(picture(), "PNG", exif=turned(number)), picture())
    return found


def _lossless() -> dict[str, Animal]:
    pixels, grey = picture(), picture()[:, :, 0]
    alpha = np.linspace(0, 255, grey.size).astype(np.uint8).reshape(grey.shape)
    rgba, grey_alpha = np.dstack([pixels, alpha]), np.dstack([grey, alpha])
    bits = grey > 100
    long = np.linspace(0, 65535, grey.size).astype(np.uint16).reshape(grey.shape)
    scaled = grey3(np.rint(long / 257).astype(np.uint8))
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)
    indices = (np.arange(grey.size) % 4).astype(np.uint8).reshape(grey.shape)
    palette = Image.new("P", (37, 24))
    palette.frombytes(indices.tobytes())
    palette.putpalette(colours.tobytes())
    clear = colours[indices]
    clear[indices == 2] = 255
    keyed = pixels.copy()
    keyed[(pixels == pixels[5, 5]).all(axis=2)] = 255
    frames = [Image.new("RGB", (5, 5), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    red = np.full((5, 5, 3), (255, 0, 0), np.uint8)
    found = {
        "rgb.png": Animal(saved(pixels, "PNG"), pixels),
        "rgb.bmp": Animal(saved(pixels, "BMP"), pixels),
        "rgb.ppm": Animal(saved(pixels, "PPM"), pixels),
        "grey.pgm": Animal(saved(grey, "PPM"), grey3(grey)),
        "lossless.webp": Animal(saved(pixels, "WEBP", lossless=True), pixels),
        "lossy.webp": Animal(content := saved(pixels, "WEBP", quality=90), by_pillow(content)),
        "grey.png": Animal(saved(grey, "PNG"), grey3(grey)),
        "one_bit.png": Animal(saved(Image.fromarray(bits), "PNG"), grey3(bits.astype(np.uint8) * 255)),
        "one_bit.tif": Animal(
            saved(Image.fromarray(bits), "TIFF", compression="group4"), grey3(bits.astype(np.uint8) * 255)
        ),
        "rgba.png": Animal(saved(rgba, "PNG"), on_white(pixels, alpha), tolerance=1),
        "rgba.webp": Animal(saved(rgba, "WEBP", lossless=True, exact=True), on_white(pixels, alpha), tolerance=1),
        "grey_alpha.png": Animal(
            saved(Image.fromarray(grey_alpha, "LA"), "PNG"), on_white(grey3(grey), alpha), tolerance=1
        ),
        "palette.png": Animal(saved(palette, "PNG"), colours[indices]),
        "palette.gif": Animal(saved(palette, "GIF"), colours[indices]),
        "palette_clear.png": Animal(saved(palette, "PNG", transparency=2), clear),
        "palette_clear.gif": Animal(saved(palette, "GIF", transparency=2), clear),
        "key_colour.png": Animal(saved(pixels, "PNG", transparency=tuple(pixels[5, 5].tolist())), keyed),
        "animation.gif": Animal(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), red),
        "animation.webp": Animal(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), red),
        "animation.png": Animal(saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), red),
        "sixteen_bits.png": Animal(saved(long, "PNG"), scaled),
        "sixteen_bits.tif": Animal(saved(long, "TIFF"), scaled),
        "sixteen_bits.pgm": Animal(saved(long, "PPM"), scaled),
        "dot.png": Animal(saved(pixels[:1, :1], "PNG"), pixels[:1, :1]),
        "line.png": Animal(saved(np.zeros((1, 20000, 3), np.uint8), "PNG"), np.zeros((1, 20000, 3), np.uint8)),
        "wrong_suffix.JPG": Animal(saved(pixels, "PNG"), pixels),
        "ycbcr.tif": Animal(content := saved(pixels, "TIFF", compression="jpeg"), by_pillow(content)),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        found[f"{compression}.tif"] = Animal(saved(pixels, "TIFF", compression=compression), pixels)
    pages = saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    return {**found, "two_pages.tif": Animal(pages, red)}


def _cmyk() -> dict[str, Animal]:
    """JPEGs with Adobe's marker store 255 - ink; without it, ink."""
    inks = np.dstack([picture(32, 48), picture(32, 48)[:, ::-1, 0] // 3])
    stored = Image.fromarray(inks, "CMYK")
    adobe = saved(stored, "JPEG", quality=100)
    assert b"Adobe" in adobe
    return {
        "cmyk.tif": Animal(saved(stored, "TIFF"), printed(inks)),
        "cmyk_adobe.jpg": Animal(adobe, printed(inks), tolerance=6),
        "cmyk_plain.jpg": Animal(without_segment(adobe, b"\xff\xee"), printed(255 - inks), tolerance=6),
    }


def _refused() -> dict[str, Animal]:
    jpeg, png = saved(noise(320, 240), "JPEG", quality=90), saved(picture(), "PNG")
    damaged = bytearray(saved(noise(), "PNG"))
    damaged[len(damaged) // 2] ^= 0xFF
    contents = {
        "empty.jpg": (b"", "the file is empty"),
        "page.jpg": (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
        "page_bom.jpg": (b"\xef\xbb\xbf<?xml version='1.0'?>", "HTML or XML"),
        "text.png": (b"not an image at all", "not an image of a known format"),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        "head.jpg": (b"\xff\xd8\xff\xe0", "known format|damaged"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated: .* rows are incomplete"),
        "half.png": (png[: len(png) // 2], "damaged or truncated"),
        "middle.png": (bytes(damaged), "damaged"),
        "float.tif": (saved(picture()[:, :, 0].astype(np.float32), "TIFF"), "mode 'F'"),
        "long.tif": (saved(np.full((4, 4), 70000, np.int32), "TIFF"), "outside"),
        "lab.tif": (saved(Image.new("LAB", (4, 4)), "TIFF"), "mode 'LAB'"),
        "bomb.png": (png_header(MAX_PIXELS // 5000 + 1, 5000), "header says .*Mpx"),
        "bomb.jpg": (jpeg_header(60_000, 60_000), "header says .*Mpx"),
        "empty_promise.png": (png_header(100, 100), "damaged or truncated"),
    }
    return {name: Animal(content, refusal=refusal) for name, (content, refusal) in contents.items()}


def zoo() -> dict[str, Animal]:
    """All files."""
    return {**_jpegs(), **_turned(), **_lossless(), **_cmyk(), **_refused()}
