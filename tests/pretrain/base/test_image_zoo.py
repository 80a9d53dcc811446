"""Every file of the zoo becomes its expected array or its expected refusal, through the one reader, from a path and from bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pretrain.base import image_files
from pretrain.base.errors import DataError
from pretrain.base.image_files import check_image, check_open_image, decode_image, read_image, read_size
from tests.cases import each
from tests.pretrain.base.image_zoo import by_pillow, noise, saved, zoo

# Pillow's word to the user of damaged EXIF and of large images is an error only in these tests.
pytestmark = pytest.mark.filterwarnings("ignore:.*(EXIF|Tag)", "default::PIL.Image.DecompressionBombWarning")
ZOO = zoo()


def test_the_zoo_is_large():
    assert len(ZOO) >= 40 and sum(bool(animal.refusal) for animal in ZOO.values()) >= 12


def test_each_file_becomes_its_array_from_a_path_and_from_bytes(tmp_path):
    readable = {name: animal for name, animal in ZOO.items() if not animal.refusal}
    assert len(readable) > 90
    for name, animal in readable.items():
        path = tmp_path / name
        path.write_bytes(animal.content)
        for pixels in (read_image(path), decode_image(animal.content, name=name)):
            assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable, name
            assert pixels.shape == animal.expected.shape, name
            assert np.abs(pixels.astype(int) - animal.expected).max() <= animal.tolerance, name
        checked = check_image(path, decode=True)
        assert (checked.height, checked.width) == read_size(path) == animal.expected.shape[:2], name
        assert checked == check_open_image(io.BytesIO(animal.content), name=name), name


@each("name", [name for name, animal in ZOO.items() if animal.refusal])
def test_each_refusal_names_the_file_and_the_reason(tmp_path, name):
    animal = ZOO[name]
    path = tmp_path / name
    path.write_bytes(animal.content)
    for read in (
        lambda: read_image(path),
        lambda: decode_image(animal.content, name=str(path)),
        lambda: check_image(path, decode=True),
    ):
        with pytest.raises(DataError, match=f"{name}: .*({animal.refusal})"):
            read()
    if name in ("middle.png", "empty_promise.png"):
        check_image(path)  # whole at both ends: that is as far as it looks
    else:
        with pytest.raises(DataError):
            check_image(path)


def test_the_fast_decoder_serves_whole_jpegs_alone():
    """Of the zoo's JPEGs in RGB and grey all; none of the others, for which Pillow's rules hold."""
    readable = {name: animal.content for name, animal in ZOO.items() if not animal.refusal}
    served = {name for name, content in readable.items() if image_files._fast_jpeg(content) is not None}
    expected = {name for name, content in readable.items() if content.startswith(b"\xff\xd8")}
    assert expected - served <= {"cmyk_adobe.jpg", "cmyk_plain.jpg"} and served <= expected


def test_fast_and_slow_decoders_agree_on_random_jpegs_to_the_bit():
    """300 files over sizes, qualities, subsamplings, progressive or not; a coarser way to upsample is the control."""
    rng = np.random.default_rng(1)
    coarser = 0
    for _ in range(300):
        pixels = noise(*rng.integers(1, 70, size=2).tolist())
        options = {"quality": int(rng.integers(1, 101)), "progressive": bool(rng.integers(2))}
        if rng.integers(4):
            content = saved(pixels, "JPEG", subsampling=int(rng.integers(3)), **options)
        else:
            content = saved(pixels[:, :, 0], "JPEG", **options)
        expected = by_pillow(content)
        assert np.array_equal(image_files._fast_jpeg(content), expected)
        coarser += not np.array_equal(simplejpeg.decode_jpeg(content, "RGB", fastupsample=True), expected)
    assert coarser > 50


def test_what_the_fast_decoder_objects_to_is_read_as_pillow_reads_it():
    """A flipped byte inside of the scan: Pillow reads on, and so do we."""
    content = bytearray(saved(noise(200, 200), "JPEG", quality=90))
    rng, objected = np.random.default_rng(0), 0
    for _ in range(60):
        damaged = content.copy()
        damaged[int(rng.integers(700, len(content) - 2))] ^= int(rng.integers(1, 256))
        try:
            expected = by_pillow(bytes(damaged))
        except OSError:
            continue
        objected += image_files._fast_jpeg(bytes(damaged)) is None
        np.testing.assert_array_equal(decode_image(bytes(damaged), name="x"), expected)
    assert objected > 5


@each("before", [b"\xff\xdb", b"\xff\xc0", b"\xff\xc4"])
def test_an_orientation_anywhere_before_the_pixels_counts(before, tmp_path):
    """A plain JPEG is decoded without Pillow's look at its header: one with an orientation must never count as plain."""
    buffer = io.BytesIO()
    gradient = np.linspace(0, 255, 40 * 24).reshape(40, 24).astype(np.uint8)
    Image.fromarray(gradient).convert("RGB").save(buffer, "JPEG")
    plain = buffer.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    place = plain.index(before)
    turned = plain[:place] + segment + plain[place:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    found = decode_image(turned, name="turned.jpg")
    np.testing.assert_array_equal(found, read_image(tmp_path / "turned.jpg"))
    np.testing.assert_array_equal(found, np.rot90(decode_image(plain, name="plain.jpg"), -1))
