"""What `open_source` takes, and that everything else is refused with what to pass."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import time
import tracemalloc

import numpy as np
import pytest

from pretrain.base.errors import DataError
from pretrain.data import index
from pretrain.data.index import Names, fingerprint_of
from pretrain.data.source import ImageSource, open_source, read_list
from tests.cases import each
from tests.pretrain.conftest import write_images


@pytest.fixture
def folder(image_folder, tmp_path):
    return shutil.copytree(image_folder, tmp_path / "images")


def test_names_are_a_sequence_of_text_in_one_block():
    texts = ["a/ä.jpg", "", os.fsdecode(b"a\xff.png"), "日本/一.png"] * 3
    names = Names(texts)
    assert list(names) == texts and [names[index] for index in range(-12, 12)] == [*texts, *texts]
    assert names[2:5] == tuple(texts[2:5]) and names.index(texts[3]) == 3 and texts[0] in names and "b" not in names
    assert names == Names(texts) != Names(texts[1:]) and hash(names) == hash(Names(texts))
    assert pickle.loads(pickle.dumps(names)) == names == Names.from_arrays(*names.arrays)
    assert list(names.take(np.array([3, 5]))) == [texts[3], texts[5]]
    with pytest.raises(IndexError):
        names[12]
    with pytest.raises(ValueError, match="do not fit"):
        Names.from_arrays(names.arrays[0][1:], names.arrays[1])


def test_a_listing_is_the_same_in_blocks_and_another_name_of_the_same_length_is_another_listing(monkeypatch):
    texts = [f"{number:02d}.png" for number in range(10)]
    monkeypatch.setattr(index, "_CHUNK", 3)  # 65,536 else
    names = Names(texts)
    assert list(names) == texts
    lines = b"".join(b"%b\0%d\n" % (text.encode(), size) for size, text in enumerate(texts))
    assert fingerprint_of(names, np.arange(10)) == hashlib.sha256(lines).hexdigest()
    assert names != Names([*texts[:-1], "0x.png"])


def test_a_name_costs_its_letters_and_four_bytes():
    """Names of 28 letters; a tuple of them is the control."""

    def cost(make):
        tracemalloc.start()
        kept = make(f"train/n{number % 1000:08d}/{number:08d}.jpg" for number in range(10_000))
        found = tracemalloc.get_traced_memory()[0] / 10_000
        tracemalloc.stop()
        assert len(kept) == 10_000
        return found

    assert cost(Names) < 40 < 80 < cost(tuple)
    many = Names(f"train/n{number % 1000:08d}/{number:08d}.jpg" for number in range(100_000))
    assert set(vars(many)) == {"_blob", "_ends"} and sum(part.nbytes for part in many.arrays) <= 100_001 * (28 + 4)


def test_a_list_file_is_read_in_its_order_relative_to_its_folder(folder):
    (folder / "sub").mkdir()
    (folder / "000.png").rename(folder / "sub" / "with space.png")
    text = f"\ufeff# my images\r\n\r\n003.png\r\nsub/with space.png\r\n  ./001.png  \r\n{folder / '002.png'}\r\n"
    (folder / "some.txt").write_bytes(text.encode())
    source = open_source(folder / "some.txt")
    names = ["003.png", "sub/with space.png", "001.png", str(folder / "002.png")]
    assert list(source.names) == names
    assert [source.read(index) for index in range(4)] == [(folder / name).read_bytes() for name in names]
    assert source.where(1) == str(folder / "sub/with space.png") and source.stats()[0].min() > 0


def test_a_list_with_lines_that_cannot_be_used_is_refused_with_their_numbers(folder):
    path = folder / "some.txt"
    path.write_text("001.png\n#\n./001.png\ngone.png\n" + "".join(f"{n}.jpg\n" for n in range(20)))
    with pytest.raises(DataError) as caught:
        read_list(path)
    told = str(caught.value)
    assert "22 of its lines" in told and "line 3: 001.png stands in line 1" in told and "and 12 more" in told
    assert f"line 4: gone.png: no such file in {folder}" in told
    for content, reason in (
        (b"", "the list is empty"),
        (b"# only\n", "the list is empty"),
        (b"a\0b\n", "line 1 holds"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            open_source(path)


REFUSED = {
    "gone": "found nothing there.*data.root=FOLDER",
    "one.jpg": r"a single image; pass the folder.*data\.root=",
    "table.csv": "holds no list of images; expected a folder of images, a list of files",
    "x.tar.gz": "compressed.*decompress it once",
    "x.tgz": "compressed.*decompress it once",
    "empty": "no image in this folder",
    "gone-{0..3}.tar": "4 of 4 shards are not there",
    "*.tar": "no file fits",
    "x-{a..b}.tar": "expected {FIRST..LAST} with numbers",
    "x-{0..1}.zip": "shards are uncompressed .tar files",
}


@each("name", REFUSED)
def test_what_holds_no_images_is_refused_with_what_to_pass(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for file in ("one.jpg", "table.csv", "x.tar.gz", "x.tgz"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(DataError, match=REFUSED[name]) as caught:
        open_source(tmp_path / name)
    assert name in str(caught.value)


@each("root", ["s3://bucket/x.tar", "ftp://server/x.tar", "file:///tmp/x.tar"])
def test_addresses_of_other_kinds_are_refused(root):
    with pytest.raises(DataError, match=r"expected http:// or https://, or a folder"):
        open_source(root)


def test_a_folder_that_cannot_be_listed_is_named_and_not_passed_over(folder, monkeypatch):
    (folder / "closed").mkdir()
    scan = os.scandir

    def refusing(path):  # the tests may run as root, for whom every folder is open
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"closed: this folder cannot be listed \(Permission denied\)"):
        open_source(folder)


def test_a_folder_has_its_own_name_whatever_links_lead_to_it(tmp_path):
    write_images(tmp_path / "b", 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    outside = write_images(tmp_path.parent / f"{tmp_path.name}_outside", 1)
    (tmp_path / "c").symlink_to(outside)
    names = list(open_source(tmp_path).names)
    assert [name.partition("/")[0] for name in names] == ["b", "b", "c"]


@each("name, message", [("x" * 300, "File name too long"), ("~nobody-of-that-name/x", "pass the whole path")])
def test_a_path_that_the_system_refuses_is_a_message(name, message):
    with pytest.raises(DataError, match=message):
        open_source(name)


def test_a_list_in_utf_16_and_one_with_impossible_names_are_refused_in_words(tmp_path):
    (tmp_path / "list.txt").write_bytes("a.jpg\r\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        open_source(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("x" * 300)
    with pytest.raises(DataError, match="line 1: x+: no such file"):
        open_source(tmp_path / "list.txt")


def test_the_home_folder_may_be_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_source("~/images").names == ImageSource(folder).names


def test_archives_beside_images_do_not_hide_them(tmp_path):
    root = write_images(tmp_path / "images", 3)
    (root / "old.tar").write_bytes(b"what the folder was unpacked from")
    assert len(open_source(root)) == 3


def test_files_that_may_not_be_opened_are_named(folder):
    source = open_source(folder)
    (folder / "000.png").unlink()
    (folder / "000.png").mkdir()
    with pytest.raises(DataError, match=r"000\.png: cannot be opened"):
        source.read(0)


def test_a_stop_signal_drops_the_items_that_no_thread_has_begun(monkeypatch):
    begun = []

    def check(item):
        begun.append(item)
        time.sleep(0.01)

    def stopped(results, **_):
        raise KeyboardInterrupt  # outside of what concurrent.futures would clean up

    monkeypatch.setattr(index, "tqdm", stopped)
    with pytest.raises(KeyboardInterrupt):
        index.in_threads(check, range(1000))
    assert len(begun) < 100
