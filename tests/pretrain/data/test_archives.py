"""Images read inside zip and tar archives: the bytes and the listing of the unpacked folder, and nothing that leads elsewhere."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import shutil
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pretrain.base.errors import DataError
from pretrain.base.image_files import check_open_image
from pretrain.data import archives
from pretrain.data.index import LostSourceError
from pretrain.data.source import ImageSource, look_at, open_source
from tests.pretrain.conftest import write_images


@pytest.fixture
def folder(tmp_path):
    """Eighteen images in two folders, one with a hyphen, which sorts before the slash."""
    root = write_images(tmp_path / "images")
    for number, path in enumerate(sorted(root.iterdir())):
        place = root / ("a" if number % 2 else "a-b") / path.name
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    (root / "a" / "notes.txt").write_text("no image")
    return root


def members_of(folder):
    """(name, bytes), in a random order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]


def write_tar(path, members, **options):
    with tarfile.open(path, options.pop("mode", "w"), **options) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def packed(kind, path, members):
    """The archive of this kind."""
    if kind == "stored":
        return write_zip(path.with_suffix(".zip"), members, zipfile.ZIP_STORED)
    if kind == "deflated":
        return write_zip(path.with_suffix(".zip"), members)
    return write_tar(path.with_suffix(".tar"), members, format=getattr(tarfile, f"{kind}_FORMAT"))


KINDS = ("stored", "deflated", "USTAR", "GNU", "PAX")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_the_folder_that_it_was_made_of(folder, tmp_path, kind):
    plain = ImageSource(folder)
    source = open_source(packed(kind, tmp_path / "images", members_of(folder)))
    assert source.names == plain.names and source.fingerprint() == plain.fingerprint()
    assert [source.read(index) for index in range(18)] == [path.read_bytes() for path in plain.paths]
    with source.open(3) as file:
        assert check_open_image(file, name="x").height == 40
    assert source.where(0) == f"{source.root}/{plain.names[0]}" and source.shard_ends is None


@pytest.mark.parametrize("kind", ["deflated", "GNU"])
def test_forks_spawns_and_threads_read_the_same(folder, tmp_path, kind):
    source = open_source(packed(kind, tmp_path / "images", members_of(folder)))
    expected = [source.read(index) for index in range(18)]
    assert [pickle.loads(pickle.dumps(source)).read(index) for index in range(18)] == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, list(range(18)) * 20)) == expected * 20
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        same = all(source.read(index) == expected[index] for index in reversed(range(18)))
        os.write(writing, b"same" if same else b"differ")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"same"
    os.close(reading), os.close(writing)
    less = source.less([source.name(0), source.name(17)])
    assert [less.read(index) for index in range(16)] == expected[1:17] and less.names[0] == source.names[1]


def test_links_and_names_that_climb_out_are_left_out_and_counted(folder, tmp_path):
    path = tmp_path / "images.tar"
    content = next(folder.rglob("*.png")).read_bytes()
    names = ("/etc/x.png", "../x.png", "a/../../x.png", "._x.png", ".hidden/x.png", "good.png", "good.png", "text.txt")
    with tarfile.open(path, "w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "link.png"),
            (tarfile.LNKTYPE, "hard.png"),
            (tarfile.FIFOTYPE, "pipe.png"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    source = open_source(path)
    assert list(source.names) == ["good.png"] and source.read(0) == content
    told = "\n".join(source.notes)
    assert "3 members are not read: their names lead out" in told and "3 members are not read: they are links" in told
    assert "1 members are not read: a later one has the same name" in told
    zipped = tmp_path / "images.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("../x.png", content)
        archive.writestr("good.png", content)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    source = open_source(zipped)
    assert list(source.names) == ["good.png"] and len(source.notes) == 2


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("suffix", ["tar", "tar.{}", "t{}"])
def test_compressed_tars_are_refused_with_what_to_do(folder, tmp_path, kind, suffix):
    path = write_tar(tmp_path / f"images.{suffix.format(kind)}", members_of(folder), mode=f"w:{kind}")
    with pytest.raises(DataError, match=r"compressed.*decompress it once|holds no list of images"):
        open_source(path)


def test_what_is_no_archive_or_holds_no_image_is_refused_by_name(tmp_path):
    for name in ("x.zip", "x.tar"):
        (tmp_path / name).write_bytes(b"<html>404</html>" * 100)
        with pytest.raises(DataError, match=rf"{name}: not a (zip|tar) archive"):
            open_source(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=rf"{name}: not a (zip|tar) archive|{name}: no image"):
            open_source(tmp_path / name)
    write_zip(tmp_path / "x.zip", [("a.txt", b"text")])
    write_tar(tmp_path / "x.tar", [("a.txt", b"text")])
    for name in ("x.zip", "x.tar"):
        with pytest.raises(DataError, match=rf"{name}: no image in this archive; looked for .*\.png"):
            open_source(tmp_path / name)


def test_encrypted_and_unknown_compression_are_refused_by_name(tmp_path):
    path = write_zip(tmp_path / "x.zip", [("a.png", b"abc")], zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"a\.png is compressed by method 14; write the archive stored or deflated"):
        open_source(path)
    content = bytearray(write_zip(path, [("a.png", b"abc")]).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the directory's flag
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.png is encrypted"):
        open_source(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_a_data_error(folder, tmp_path, kind):
    path = packed(kind, tmp_path / "images", members_of(folder))
    whole = path.read_bytes()
    last = len(whole.rstrip(b"\0")) if path.suffix == ".tar" else len(whole)
    lengths = {*range(0, last, last // 23), last - 1}
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            lengths |= {place for member in archive for place in (member.offset, member.offset_data)}
            lengths |= {archive.offset, archive.offset + 512, archive.offset + 1023}
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=re.escape(str(path))) as caught:
            open_source(path)
        assert path.suffix == ".zip" or isinstance(caught.value, archives.CutOffError)


def test_a_tar_may_end_with_its_mark_or_with_any_number_of_zeros(folder, tmp_path):
    path = write_tar(tmp_path / "images.tar", members_of(folder))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        archive.getmembers()
        end = archive.offset
    for zeros in (1024, 1100, 3 << 20):  # tarp and Rust's tar write 1,024
        path.write_bytes(whole[:end] + bytes(zeros))
        assert len(open_source(path)) == 18


def test_what_lies_behind_the_end_of_a_tar_is_not_lost_unnoticed(folder, tmp_path):
    members = members_of(folder)
    first, second = (
        write_tar(tmp_path / f"{number}.tar", members[number::2]).read_bytes() for number in range(2)
    )  # cat a.tar b.tar
    with tarfile.open(tmp_path / "0.tar") as archive:
        place = archive.getmembers()[5].offset
    path = tmp_path / "images.tar"
    hole = first[:place] + bytes(3000) + first[place + 3000 :]
    for content, at in ((first + second, len(first)), (hole, place + 3000)):
        path.write_bytes(content)
        with tarfile.open(path) as archive:
            assert len(archive.getmembers()) < 18  # the control: what the library makes of it
        with pytest.raises(
            DataError, match=rf"images\.tar: the archive ends at .* follows at byte {at:,}.*--concatenate"
        ):
            open_source(path)


@pytest.mark.parametrize("program", ["tar", "bsdtar", "busybox tar"])
def test_tars_of_other_programs_end_as_they_must(folder, tmp_path, program):
    words = program.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]}")
    path = tmp_path / "images.tar"

    def run(*options):
        subprocess.run([*words, *options], cwd=folder, check=True, capture_output=True)

    run("-cf", path, "a", "a-b")
    assert open_source(path).names == ImageSource(folder).names
    if program == "tar":
        for blocking in ("1", "2000"):
            run("-b", blocking, "-cf", path, "a")
            assert len(open_source(path)) == 9
        run("-rf", path, "a-b/000.png")  # written over the mark
        run("-cf", tmp_path / "other.tar", "a-b/002.png")
        run("-Af", path, tmp_path / "other.tar")
        assert len(open_source(path)) == 11


def test_a_damaged_header_does_not_end_the_listing_unnoticed(folder, tmp_path):
    path = write_tar(tmp_path / "images.tar", members_of(folder))
    with tarfile.open(path) as archive:
        place = archive.getmembers()[9].offset
    content = bytearray(path.read_bytes())
    content[place : place + 512] = b"x" * 512
    path.write_bytes(bytes(content))
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 9  # the control: what the library makes of it
    with pytest.raises(DataError, match=f"damaged header at byte {place}"):
        open_source(path)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("was_open", [True, False])
def test_an_archive_that_changed_during_the_run_is_neither_read_nor_an_unreadable_image(
    folder, tmp_path, kind, was_open
):
    """At the places that were listed stand other images."""
    members = [(name, content) for name, content in members_of(folder) if name.endswith("png")]
    path = tmp_path / ("images.zip" if kind == "zip" else "images.tar")
    write = write_zip if kind == "zip" else write_tar
    write(path, members)
    source = open_source(path)
    if was_open:
        source.read(0)
    source = source if was_open else pickle.loads(pickle.dumps(source))
    time = path.stat().st_mtime_ns
    write(path, members[::-1])
    os.utime(path, ns=(time, time + 1000))
    for read in (source.read, source.open):
        with pytest.raises(LostSourceError, match=rf"{path}: changed since it was listed .*put the file back if"):
            read(17)
    write(path, members[:3])
    with pytest.raises(LostSourceError, match=r"expected [\d,]+ bytes, found"):
        source.read(17)
    path.unlink()
    with pytest.raises(LostSourceError, match="no such file"):
        pickle.loads(pickle.dumps(source)).read(0)


def test_an_archive_that_another_one_replaces_is_read_on_where_it_is_open(folder, tmp_path):
    path = write_tar(tmp_path / "images.tar", members_of(folder))
    source = open_source(path)
    expected = [source.read(index) for index in range(18)]
    write_tar(tmp_path / "new.tar", members_of(folder)[::-1]).replace(path)
    assert [source.read(index) for index in range(18)] == expected
    with pytest.raises(LostSourceError, match="changed since it was listed"):
        pickle.loads(pickle.dumps(source)).read(0)


def test_folders_of_a_zip_from_windows_are_folders(folder, tmp_path):
    image = next(folder.rglob("*.png")).read_bytes()
    path = write_zip(tmp_path / "w.zip", [("c1\\a.png", image), ("c1\\._a.png", image), ("..\\out.png", image)])
    source = open_source(path)
    assert list(source.names) == ["c1/a.png"] and any("lead out of the archive" in note for note in source.notes)
    assert source.open(0).read() == image


def test_damage_in_a_zip_is_told_by_its_checksum_and_bombs_do_not_grow(tmp_path):
    noise = np.random.default_rng(0).bytes(5000)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = write_zip(tmp_path / "x.zip", [("a.png", noise)], compression)
        content = bytearray(path.read_bytes())
        content[2500] ^= 0xFF
        path.write_bytes(bytes(content))
        with pytest.raises(DataError, match=r"a\.png: damaged in the archive") as caught:
            open_source(path).read(0)
        assert not isinstance(caught.value, LostSourceError)  # one image: another may stand in
    path = write_zip(tmp_path / "x.zip", [("a.png", bytes(50_000_000))])
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = (1000).to_bytes(4, "little")  # the directory promises 1,000 bytes
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="its size differs|cannot be"):
        open_source(path).read(0)


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_is_images_or_a_data_error(folder, tmp_path, kind):
    """Bytes of headers and directories above all; what leaked in 40,000 such files was a negative offset of a zip."""
    path = packed(kind, tmp_path / "images", [(name, content[:300]) for name, content in members_of(folder)])
    whole = path.read_bytes()
    directory = max(0, whole.find(b"PK\x01\x02"))
    rng, outcomes = np.random.default_rng(0), set()
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            end = len(whole) - 22 if directory and rng.integers(2) else directory
            content[int(rng.integers(end, len(whole)))] = int(rng.integers(256))
        path.write_bytes(bytes(content))
        try:
            source = open_source(path)
        except DataError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
            continue
        for index in range(len(source)):
            try:
                outcomes.add(type(source.read(index)))
            except DataError:
                outcomes.add("damaged")
    assert {"refused", bytes} <= outcomes


def test_few_archives_stay_open(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_OPEN", 2)
    shards = tmp_path / "shards"
    shards.mkdir()
    members = [(name, content) for name, content in members_of(folder) if name.endswith("png")]
    for number in range(6):
        write_tar(shards / f"{number}.tar", members[3 * number : 3 * number + 3])
    source = open_source(shards)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [source.read(index) for index in range(18)] == [content for _, content in members]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_would_fill_the_memory_is_an_unreadable_image(folder, tmp_path, kind, monkeypatch):
    path = shutil.make_archive(str(tmp_path / "images"), kind, folder)
    images = open_source(path)
    largest = int(images.stats()[0].max())
    monkeypatch.setattr(archives, "MAX_BYTES", largest)
    for index in range(len(images)):
        images.read(index)
    monkeypatch.setattr(archives, "MAX_BYTES", largest - 1)
    index = int(images.stats()[0].argmax())
    for read in (images.read, images.open):
        with pytest.raises(DataError, match=f"{largest:,} bytes; an image has at most"):
            read(index)
    assert "an image has at most" in look_at(images, index)
