"""A zoo of image files: each becomes its reference array or a DataError that names it."""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from pretrain.base.errors import DataError
from pretrain.base.image_files import (
    MAX_INCOMPLETE,
    MAX_LARGE_PIXELS,
    MAX_PIXELS,
    TooLargeError,
    check_image,
    read_image,
    read_size,
)


def picture(height=24, width=37):
    """Smooth colour, unequal along every axis, so that a wrong flip or channel shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], 2).astype(
        np.uint8
    )


@pytest.fixture
def write(tmp_path):
    """Function: PIL image, name, save options -> path."""

    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "lossless.webp"])
def test_lossless_rgb_comes_back_bit_for_bit(write, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = write(Image.fromarray(picture()), name, **options)
    decoded = read_image(path)
    np.testing.assert_array_equal(decoded, picture())
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable
    assert read_size(path) == (24, 37)


def test_jpeg_equals_pillows_own_decoding(write):
    path = write(Image.fromarray(picture()), "a.jpg", quality=80)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


ON_LOAD = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ON_LOAD)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_every_exif_orientation_is_applied_once(write, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    upright = read_image(write(Image.fromarray(picture()), f"plain_{name}", **options))
    path = write(Image.fromarray(picture()), name, exif=exif, **options)
    expected = ON_LOAD[orientation](upright)
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert read_size(path) == expected.shape[:2]


@pytest.mark.filterwarnings("ignore:.*(EXIF|Tag)")  # Pillow's word to the user, an error only in these tests
@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_costs_nothing_but_the_orientation(tmp_path, block):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG")
    plain = buffer.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    (tmp_path / "plain.jpg").write_bytes(plain)
    (tmp_path / "broken.jpg").write_bytes(plain[:2] + segment + plain[2:])
    np.testing.assert_array_equal(read_image(tmp_path / "broken.jpg"), read_image(tmp_path / "plain.jpg"))


@pytest.mark.parametrize("value", [0, 9, 300])
def test_orientations_outside_the_standard_are_ignored(write, value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(read_image(write(Image.fromarray(picture()), "a.png", exif=exif)), picture())


def test_grey_and_one_bit_become_three_equal_channels(write):
    grey = picture()[:, :, 0]
    three = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(write(Image.fromarray(grey), "grey.png")), three)
    bits = Image.fromarray(np.where(grey > 100, 255, 0).astype(np.uint8)).convert("1")
    expected = np.where(three > 100, 255, 0)
    np.testing.assert_array_equal(read_image(write(bits, "bits.png")), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_a_white_page(write, mode):
    alpha = np.linspace(0, 255, 24 * 37).astype(np.uint8).reshape(24, 37)
    image = Image.fromarray(picture()).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    opaque = np.asarray(Image.fromarray(np.asarray(image.convert("RGBA"))[:, :, :3].copy())).astype(float)
    weight = alpha[:, :, None] / 255
    expected = opaque * weight + 255 * (1 - weight)
    assert np.abs(read_image(write(image, "a.png")) - expected).max() <= 1
    assert (read_image(write(image, "a.png"))[0, 0] == 255).all()


def test_palettes_are_looked_up_with_and_without_transparency(write):
    indices = Image.fromarray((np.arange(24 * 37) % 4).astype(np.uint8).reshape(24, 37), "L")
    palette_image = Image.new("P", indices.size)
    palette_image.putdata(
        list(indices.get_flattened_data() if hasattr(indices, "get_flattened_data") else indices.getdata())
    )
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], dtype=np.uint8)
    palette_image.putpalette(colours.tobytes())
    expected = colours[np.asarray(indices)]
    np.testing.assert_array_equal(read_image(write(palette_image, "p.png")), expected)
    np.testing.assert_array_equal(read_image(write(palette_image, "p.gif")), expected)
    clear = expected.copy()
    clear[np.asarray(indices) == 2] = 255
    np.testing.assert_array_equal(read_image(write(palette_image, "clear.png", transparency=2)), clear)


def test_a_transparent_colour_of_an_rgb_file_shows_the_page(write):
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    image.putpixel((1, 1), (1, 2, 3))
    decoded = read_image(write(image, "a.png", transparency=(1, 2, 3)))
    assert decoded[1, 1].tolist() == [255, 255, 255] and decoded[0, 0].tolist() == [9, 9, 9]


def flat_cmyk(inks, size=(16, 16)):
    return Image.new("CMYK", size, tuple(inks))


@pytest.mark.parametrize("inks", [(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (30, 120, 60, 40)])
def test_cmyk_is_light_left_by_the_inks(write, inks):
    expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    assert np.abs(read_image(write(flat_cmyk(inks), "a.tif"))[0, 0] - expected).max() <= 0.5
    adobe = write(flat_cmyk(inks), "a.jpg", quality=100)
    assert b"Adobe" in adobe.read_bytes()  # stored inverted, with the marker that says so
    assert np.abs(read_image(adobe)[0, 0] - expected).max() <= 3


def test_cmyk_jpeg_without_adobes_marker_is_not_inverted(tmp_path, write):
    data = write(flat_cmyk((30, 120, 60, 40)), "a.jpg", quality=100).read_bytes()
    marker = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[marker + 2 : marker + 4])[0]
    (tmp_path / "plain.jpg").write_bytes(data[:marker] + data[marker + 2 + length :])
    stored = 255 - np.array((30, 120, 60, 40))  # what the file holds, now to be taken as ink itself
    expected = (255 - stored[:3]) * (255 - stored[3]) / 255
    assert np.abs(read_image(tmp_path / "plain.jpg")[0, 0] - expected).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_saturated(write, name):
    values = np.linspace(0, 65535, 24 * 37).astype(np.uint16).reshape(24, 37)
    decoded = read_image(write(Image.fromarray(values), name))
    np.testing.assert_array_equal(decoded[:, :, 1], np.rint(values / 257))
    assert len(np.unique(decoded)) == 256  # the control: a plain cast leaves one value above 255


def test_unknown_pixel_ranges_are_refused(write):
    with pytest.raises(DataError, match=r"float\.tif.*mode 'F'"):
        read_image(write(Image.fromarray(picture()[:, :, 0].astype(np.float32)), "float.tif"))
    path = write(Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)), "long.tif")
    for function in (read_image, check_image):
        with pytest.raises(DataError, match=r"long\.tif.*outside"):
            function(path)


def test_extreme_shapes_and_animations(write):
    np.testing.assert_array_equal(read_image(write(Image.new("RGB", (1, 1), (1, 2, 3)), "dot.png")), [[[1, 2, 3]]])
    assert read_image(write(Image.new("RGB", (20000, 1)), "line.png")).shape == (1, 20000, 3)
    frames = [Image.new("RGB", (5, 5), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    first = read_image(write(frames[0], "two.gif", save_all=True, append_images=frames[1:]))
    assert first[0, 0].tolist() == [255, 0, 0]


BAD = {
    "zero.jpg": (b"", "empty"),
    "page.jpg": (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
    "text.png": (b"not an image at all", "not an image of a known format"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "head.jpg": (b"\xff\xd8\xff\xe0", "known format|damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_images_are_named_with_the_reason(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    for function in (read_image, read_size, check_image):
        with pytest.raises(DataError, match=f"{name}.*({reason})"):
            function(tmp_path / name)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot be opened"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_every_truncation_of_other_formats_than_jpeg_is_refused(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 40)).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / "cut"
    path.write_bytes(whole)
    assert read_image(path).shape == (40, 40, 3)  # the control
    # A PNG or GIF is complete before its end marker, so that its last bytes may go without loss of a pixel.
    spare = {"PNG": 24, "GIF": 3}.get(kind, 2)
    for length in {*range(0, len(whole) - spare, max(1, len(whole) // 25)), len(whole) - spare - 1}:
        path.write_bytes(whole[:length])
        for function in (read_image, check_image):  # from its end, where the middle is not looked at
            with pytest.raises(DataError, match="cut: "):
                function(path)


def test_the_process_wide_switch_for_truncated_images_stays_off():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def photo(height=320, width=240, mode="RGB"):
    """Detail in every block, so that the bytes of a JPEG are spread over its rows as in a photograph."""
    noise = np.random.default_rng(0).normal(0, 25, (height, width, 3))
    return Image.fromarray(np.clip(picture(height, width) + noise, 0, 255).astype(np.uint8)).convert(mode)


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "progressive"), [("RGB", False), ("L", False), ("CMYK", False), ("RGB", True)])
def test_a_jpeg_that_lacks_its_last_bytes_is_read_and_reported(tmp_path, mode, progressive):
    content = jpeg(photo(mode=mode), quality=90, progressive=progressive)
    (tmp_path / "whole.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[:-20])
    whole, cut = read_image(tmp_path / "whole.jpg"), read_image(tmp_path / "cut.jpg")
    if progressive:  # the last bit of some coefficients is missing
        assert np.abs(whole.astype(int) - cut).mean() < 0.1
    else:  # the row of blocks above the last one is mixed with it by a line
        np.testing.assert_array_equal(whole[: 320 - 17], cut[: 320 - 17])
    assert not np.array_equal(whole, cut)
    assert check_image(tmp_path / "whole.jpg").incomplete is None
    assert "incomplete" in check_image(tmp_path / "cut.jpg").incomplete


def test_a_jpeg_without_its_end_marker_alone_loses_no_pixel(tmp_path):
    content = jpeg(photo(), quality=90)
    (tmp_path / "whole.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[:-2])
    np.testing.assert_array_equal(read_image(tmp_path / "cut.jpg"), read_image(tmp_path / "whole.jpg"))
    assert check_image(tmp_path / "cut.jpg").incomplete == "its last block may be incomplete"


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_truncated_jpeg_is_read_up_to_the_limit_and_refused_beyond(tmp_path, progressive):
    whole = read_image(_written(tmp_path / "whole.jpg", content := jpeg(photo(), quality=90, progressive=progressive)))
    accepted, refused = [], []
    for share in (0.001, 0.005, 0.01, 0.02, 0.04, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999):
        path = _written(tmp_path / "cut.jpg", content[: int(len(content) * (1 - share))])
        try:
            pixels = read_image(path)
        except DataError as error:
            refused.append(share)
            assert "cut.jpg: " in str(error)
            with pytest.raises(DataError, match="cut"):
                check_image(path)
            continue
        accepted.append(share)
        lacking = re.match(r"(\d+) of its 320 rows|its last block", check_image(path).incomplete)
        rows = int(lacking[1] or 0)
        assert rows <= MAX_INCOMPLETE * 320
        wrong = np.abs(whole.astype(int) - pixels).max(axis=(1, 2)) > 24  # grey differs by more, a last bit by less
        assert not wrong[: 320 - rows - 17].any()  # the block where the bytes end is neither whole nor grey
    assert {0.001, 0.005} <= set(accepted) and {0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999} <= set(refused)


def test_a_truncated_jpeg_is_turned_as_a_whole_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = jpeg(photo(), quality=90, exif=exif)
    whole, cut = _written(tmp_path / "whole.jpg", content), _written(tmp_path / "cut.jpg", content[:-20])
    assert read_image(cut).shape == (240, 320, 3) == (*read_size(cut), 3)
    np.testing.assert_array_equal(read_image(cut)[:, 17:], read_image(whole)[:, 17:])  # the lower border now lies left


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
@pytest.mark.parametrize("orientation", ON_LOAD)
def test_size_and_pixels_of_a_turned_tiff_agree(write, orientation, compression):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(Image.fromarray(picture()), "a.tif", exif=exif, compression=compression)
    size = (37, 24) if orientation > 4 else (24, 37)
    checked = check_image(path)
    assert read_image(path).shape[:2] == read_size(path) == (checked.height, checked.width) == size
    assert checked.turned == (orientation > 4)


def test_damage_between_sound_ends_is_found_by_decoding(tmp_path):
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[len(content) // 2] ^= 0xFF
    path = _written(tmp_path / "damaged.png", bytes(content))
    check_image(path)  # looks whole
    with pytest.raises(DataError, match=r"damaged\.png: damaged"):
        check_image(path, decode=True)


def png_header(width, height):
    """A PNG that promises width x height pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width", [MAX_PIXELS // 5000 + 1, 20_000, 60_000])  # ours; Pillow warns; Pillow raises
def test_bombs_are_refused_by_their_header(tmp_path, width):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, 5000))
    for function in (read_image, read_size, check_image):
        with pytest.raises(DataError, match=r"bomb\.png.*header says.*Mpx"):
            function(path)
        with pytest.raises(TooLargeError):
            function(path)
    path.write_bytes(png_header(100, 100))  # the control: under the limit it is the missing pixels that stop it
    with pytest.raises(DataError, match="damaged or truncated"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_images_are_read_where_the_caller_allows_them(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (MAX_PIXELS // 5000 + 1, 5000)).save(path)
    for function in (read_image, read_size, check_image):
        with pytest.raises(TooLargeError, match="at most 50 Mpx"):
            function(path)
    assert read_size(path, max_pixels=MAX_LARGE_PIXELS) == (5000, MAX_PIXELS // 5000 + 1)
    assert check_image(path, max_pixels=MAX_LARGE_PIXELS).width == MAX_PIXELS // 5000 + 1
    assert read_image(path, max_pixels=MAX_LARGE_PIXELS).shape[0] == 5000
    path.write_bytes(png_header(MAX_LARGE_PIXELS // 5000 + 1, 5000))
    with pytest.raises(TooLargeError, match="at most 178 Mpx"):
        check_image(path, max_pixels=MAX_LARGE_PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
def test_random_damage_is_an_image_or_a_data_error(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, kind)
    whole = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    rng = np.random.default_rng(0)
    path, outcomes = tmp_path / "damaged", set()
    for _ in range(80):
        damaged = whole.copy()
        places = rng.integers(len(damaged), size=rng.integers(1, 8))
        damaged[places] = rng.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            decoded = read_image(path)
            assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3
            assert read_size(path) == decoded.shape[:2]
            check_image(path)  # refuses nothing that can be read
            outcomes.add("image")
        except DataError as error:
            assert "damaged: " in str(error)
            outcomes.add("error")
    assert "error" in outcomes
