"""What the reader does beyond single files (those: test_image_zoo.py): truncation, damage, size limits, turned TIFFs."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageFile

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
from tests.cases import each
from tests.pretrain.base.image_zoo import UPRIGHT, picture, png_header


@pytest.fixture
def write(tmp_path):
    """Function: PIL image, name, save options -> path."""

    def save(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_saturated(write, name):
    values = np.linspace(0, 65535, 24 * 37).astype(np.uint16).reshape(24, 37)
    decoded = read_image(write(Image.fromarray(values), name))
    np.testing.assert_array_equal(decoded[:, :, 1], np.rint(values / 257))
    assert len(np.unique(decoded)) == 256  # the control: a plain cast leaves one value above 255


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot be opened"):
        read_image(tmp_path)


@each("kind", ["PNG", "BMP", "WEBP", "TIFF", "GIF"])
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


@each(("mode", "progressive"), [("RGB", False), ("L", False), ("CMYK", False), ("RGB", True)])
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
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_size_and_pixels_of_a_turned_tiff_agree(write, orientation, compression):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(Image.fromarray(picture()), "a.tif", exif=exif, compression=compression)
    size = (37, 24) if orientation > 4 else (24, 37)
    checked = check_image(path)
    assert read_image(path).shape[:2] == read_size(path) == (checked.height, checked.width) == size
    assert checked.turned == (orientation > 4)


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
