"""Archives that want out of their folder, unfold without end or lie: refused, with nothing written outside or left inside."""

from __future__ import annotations

import io
import os
import random
import tarfile
import zipfile

import pytest

from pretrain.base.errors import DataError
from tests.cases import each
from tests.transfer.data.public.miniature import tar, zipped
from transfer.data.public.archives import Allowance
from transfer.data.public.layouts import below
from transfer.data.public.tree import Tree


def linked(kind, target, name="data/link"):
    """A tar with one plain file, and an entry of `kind` that a file is then written through."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry, content in (
            (tarfile.TarInfo("data/a"), b"a"),
            (tarfile.TarInfo(name), b""),
            (tarfile.TarInfo(f"{name}/x"), b"x"),
        ):
            if entry.name == name:
                entry.type, entry.linkname = kind, target
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_with(name, **fields):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.writestr(entry, "/etc")
    return buffer.getvalue()


def two(*members):
    """A tar with several members of any names, also equal ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def lying_zip():
    """Its bytes are not those of its checksum."""
    content = bytearray(zipped({"data/a": b"a" * 100}))
    content[content.index(b"aaaa")] = ord("b")
    return bytes(content)


FILE = {"data/a": b"a"}
EVIL = {
    "absolute.tar": (tar({**FILE, "/data/b": b"b"}), "leads out"),
    "climbs.tar": (tar({**FILE, "data/../../b": b"b"}), "leads out"),
    "climbs.zip": (zipped({**FILE, "data/../../b": b"b"}), "leads out"),
    "absolute.zip": (zipped({**FILE, "/tmp/b": b"b"}), "leads out"),
    "elsewhere.tar": (tar({**FILE, "other/../../b": b"b"}), "leads out"),  # though only data/ is wanted
    "backslash.tar": (tar({**FILE, "data\\..\\b": b"b"}), "leads out"),
    "drive.zip": (zipped({**FILE, "C:/b": b"b"}), "leads out"),
    "control.tar": (tar({**FILE, "data/\x1bb": b"b"}), "leads out"),
    "long.tar": (tar({**FILE, f"data/{'b' * 300}": b"b"}), "no file can have"),
    "symlink.tar": (linked(tarfile.SYMTYPE, "/tmp"), "link"),
    "symlink_inside.tar": (linked(tarfile.SYMTYPE, "a"), "link"),
    "hardlink.tar": (linked(tarfile.LNKTYPE, "data/a"), "link"),
    "device.tar": (linked(tarfile.CHRTYPE, ""), "device"),
    "fifo.tar": (linked(tarfile.FIFOTYPE, ""), "device"),
    "symlink.zip": (zip_with("data/link", external_attr=0o120777 << 16), "link"),
    "twice.tar": (two(("data/a", b"a"), ("data/a", b"b")), "another member"),
    "file_and_folder.tar": (two(("data/a", b"a"), ("data/a/b", b"b")), "a file and a folder"),
    "folder_and_file.tar": (two(("data/a/b", b"b"), ("data/a", b"a")), "a file and a folder"),
    "many.tar": (tar({f"data/{n}": b"" for n in range(60)}), "members"),
    "large.tar": (tar({"data/a": bytes(200_000)}), "bytes"),
    "bomb.tar.gz": (tar({"data/a": bytes(50_000_000)}, mode="w:gz"), "bytes"),
    "large.zip": (zipped({"data/a": bytes(200_000)}), "bytes"),
    "lies.zip": (lying_zip(), "damaged"),
    "cut.tar": (tar({"data/a": bytes(90_000)})[:50_000], "damaged|not that long"),
    "cut.tar.gz": (tar({"data/a": random.Random(0).randbytes(50_000)}, mode="w:gz")[:30_000], "damaged|not that long"),
    "cut.zip": (zipped(FILE)[:-30], "damaged"),
    "text.tar": (b"<html>Please log in</html>" * 100, "damaged"),
    "other.tar": (tar({"else/a": b"a"}), "no member below data/"),
}


def everything(folder):
    """Path -> size, links not followed; also devices and what is hidden."""
    return {str(path): os.lstat(path).st_size for path in folder.rglob("*")}


@each("name", EVIL)
def test_an_archive_that_is_not_harmless_is_refused_and_leaves_nothing(tmp_path, name):
    content, message = EVIL[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    before = everything(tmp_path)
    tree = Tree(tmp_path / "out" / "set")
    with pytest.raises(DataError, match=message):
        below("data")([tmp_path / "in" / name], tree, Allowance(files=50, size=100_000))
    found = {path for path in everything(tmp_path) if not path.startswith(str(tree.folder))}
    tree.remove()
    assert found - set(before) <= {str(tmp_path / "out"), str(tmp_path / "out" / ".set.member")}
    assert everything(tmp_path) == {**before, str(tmp_path / "out"): os.lstat(tmp_path / "out").st_size}


def test_control_the_same_reader_takes_a_harmless_archive(tmp_path):
    harmless = {"./data//a": b"a", "data/b.c/d": b"d", "else/x": b"x"}
    for name, content in (("good.tar", tar(harmless, folders=("data",))), ("good.zip", zipped({"data/a": b"a"}))):
        (tmp_path / name).write_bytes(content)
        tree = Tree(tmp_path / f"set_{name}")
        below("data")([tmp_path / name], tree, Allowance(files=50, size=100_000))
        assert tree.publish() == len(tree.listing) and (tmp_path / f"set_{name}" / "a").read_bytes() == b"a"
    assert sorted(tree.listing) == ["a"] and not list(tmp_path.glob(".*"))


def test_damaged_archives_are_refused_in_words_or_read_never_a_traceback(tmp_path):
    draw = random.Random(3)
    for name, whole in (
        ("a.tar", tar({f"data/{n}": bytes(700) for n in range(4)})),
        ("a.tar.gz", tar({f"data/{n}": draw.randbytes(300) for n in range(4)}, mode="w:gz")),
        ("a.zip", zipped({f"data/{n}": draw.randbytes(300) for n in range(4)})),
    ):
        refused = 0
        for _ in range(25):
            content = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            (tmp_path / name).write_bytes(content)
            tree = Tree(tmp_path / "set")
            try:
                below("data")([tmp_path / name], tree, Allowance(files=50, size=100_000))
            except DataError:
                refused += 1
            tree.remove()
        assert refused or name == "a.tar"
        assert not (tmp_path / "set").exists()
