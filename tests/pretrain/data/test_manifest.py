"""The image set of a run: looked through once, recorded, and the same when the run continues."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import DataError
from pretrain.data import manifest as image_set_module
from pretrain.data.manifest import ImageSetRecord, check_image_set, read_record, refuse_small_images, write_record
from pretrain.data.source import ImageSource
from pretrain.run.ranks import Ranks


@pytest.fixture
def folder(image_folder, tmp_path):
    """A folder of 18 good images and a bad one."""
    root = shutil.copytree(image_folder, tmp_path / "images")
    (root / "bad.png").write_bytes(b"no image")
    return root


def check(root, *, skip_unreadable=True, recorded=None, ranks=None):
    return check_image_set(
        root, skip_unreadable=skip_unreadable, recorded=recorded, ranks=ranks or Ranks(), announce=lambda text: None
    )


def test_a_recorded_set_is_not_looked_through_again(folder, monkeypatch):
    first, record = check(folder)

    def scan_again(*arguments, **options):
        raise AssertionError("scanned again")

    monkeypatch.setattr(image_set_module, "look_through", scan_again)
    again, same = check(folder, recorded=record)
    assert (again.names, same) == (first.names, record)
    assert record.unreadable == ("bad.png",) and len(again) == 18
    with pytest.raises(AssertionError, match="scanned again"):  # control: without the record it is
        check(folder)


@pytest.mark.parametrize("change", ["added", "lost", "renamed", "resized"])
def test_a_set_that_changed_since_the_run_began_is_refused(folder, change):
    _, record = check(folder)
    some = folder / "000.png"
    if change == "added":
        shutil.copy(some, folder / "new.png")
    elif change == "lost":
        some.unlink()
    elif change == "renamed":
        some.rename(folder / "other.png")
    else:
        some.write_bytes(some.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"not those that this run began with \(19 files then"):
        check(folder, recorded=record)


def test_a_moved_folder_is_the_same_set(folder, tmp_path):
    _, record = check(folder)
    moved = folder.rename(tmp_path / "moved")
    assert len(check(moved, recorded=record)[0]) == 18


def test_the_record_survives_the_file(tmp_path):
    record = ImageSetRecord(3, "abc", ("a/b.png",), ("c.png",))
    assert read_record(tmp_path) is None
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_each_rank_looks_at_its_share_and_all_know_the_whole(folder, monkeypatch):
    """Two ranks, one after the other: the second gets what the first said, as in a gather."""
    looked: list[str] = []
    real = image_set_module.look_at
    monkeypatch.setattr(
        image_set_module, "look_at", lambda source, index: looked.append(source.name(index)) or real(source, index)
    )
    said: dict[int, list] = {0: [], 1: []}

    def run(rank, others):
        places = iter(range(99))

        def gather(value, ranks):
            said[rank].append(value)
            place = next(places)
            other = others[place] if place < len(others) else value
            return [value, other] if rank == 0 else [other, value]

        monkeypatch.setattr(image_set_module, "gather_values", gather)
        return check(folder, ranks=Ranks(rank=rank, world_size=2))[1]

    run(0, [])
    shares = [set(looked)]
    looked.clear()
    second = run(1, said[0])
    shares.append(set(looked))
    said[0].clear()
    first = run(0, said[1])
    assert first == second and first.unreadable == ("bad.png",)
    assert shares[0] | shares[1] == set(ImageSource(folder).names) and not shares[0] & shares[1]


def test_ranks_that_see_different_folders_are_refused(folder, monkeypatch):
    monkeypatch.setattr(
        image_set_module,
        "gather_values",
        lambda value, ranks: [value, (4, "other") if isinstance(value, tuple) else value],
    )
    with pytest.raises(DataError, match="rank 1 lists 4 images, rank 0 lists 19"):
        check(folder, ranks=Ranks(rank=0, world_size=2))


def test_a_link_that_leads_nowhere_is_named_like_any_unreadable_file(folder):
    (folder / "gone.png").symlink_to("/nowhere.png")
    _, record = check(folder)
    assert record.unreadable == ("bad.png", "gone.png")
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        check(folder, skip_unreadable=False)


def test_truncated_jpegs_are_announced_once_with_their_count_and_names(folder):
    pixels = np.random.default_rng(0).integers(256, size=(512, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "whole.jpg"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-20])
    messages: list[str] = []
    options = {"skip_unreadable": True, "ranks": Ranks(), "announce": messages.append}
    source, record = check_image_set(folder, recorded=None, **options)
    assert "cut.jpg" in source.names and len(messages) == 2
    assert "1 of 21 JPEGs lack their last bytes" in messages[1] and "cut.jpg: " in messages[1]
    check_image_set(folder, recorded=record, **options)  # the run goes on
    assert len(messages) == 2


@pytest.fixture
def looked_at(folder, tmp_path, monkeypatch):
    """Names that are looked at, with a manifest for any number of images in a cache of the test's own."""
    monkeypatch.setattr(image_set_module, "MIN_KEPT", 1)
    monkeypatch.setenv("INFOMIN_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(256, size=(512, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-20])
    names: list[str] = []
    real = image_set_module.look_at
    monkeypatch.setattr(
        image_set_module, "look_at", lambda source, index: names.append(source.name(index)) or real(source, index)
    )
    return names


def told_by(folder):
    """(messages, record, the listing) of a check."""
    messages: list[str] = []
    source, record = check_image_set(
        folder, skip_unreadable=True, recorded=None, ranks=Ranks(), announce=messages.append
    )
    return messages, record, source.names


def test_a_second_run_looks_again_only_at_what_could_not_be_read_and_says_the_same(folder, looked_at):
    before = sorted(path.name for path in folder.iterdir())
    first = told_by(folder)
    assert len(looked_at) == 20 and "bad.png" in first[0][0] and "cut.jpg" in first[0][1]
    looked_at.clear()
    assert told_by(folder) == first and looked_at == ["bad.png"]
    looked_at.clear()
    with pytest.raises(DataError, match=r"1 of 20 images cannot be read:\n.*bad\.png: not an image"):
        check(folder, skip_unreadable=False)
    refuse_small_images(ImageSource(folder).less(["bad.png"]), 40, Ranks())
    with pytest.raises(
        DataError, match=r"has 41 px or more; 18 of 19 are smaller, down to 40 px \(.*000\.png: 40 x 48"
    ):
        refuse_small_images(ImageSource(folder).less(["bad.png"]), 41, Ranks())
    assert looked_at == ["bad.png"] and sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("change", ["touched", "resized", "added", "renamed", "lost", "repaired"])
def test_what_changed_since_is_looked_at_again_and_nothing_else(folder, looked_at, change):
    told_by(folder)
    looked_at.clear()
    some, time = folder / "004.png", (folder / "004.png").stat().st_mtime_ns
    changed = {
        "touched": lambda: os.utime(some, ns=(time, time + 1)),
        "resized": lambda: some.write_bytes(b"no image") and os.utime(some, ns=(time, time)),
        "added": lambda: shutil.copy(some, folder / "000a.png"),
        "renamed": lambda: some.rename(folder / "000a.png"),
        "lost": some.unlink,
        "repaired": lambda: shutil.copy(some, folder / "bad.png"),
    }
    changed[change]()
    messages, record, names = told_by(folder)
    new = {"touched": ["004.png"], "resized": ["004.png"], "lost": [], "repaired": []}.get(change, ["000a.png"])
    assert sorted(looked_at) == [*new, "bad.png"]
    assert record.unreadable == {"resized": ("004.png", "bad.png"), "repaired": ()}.get(change, ("bad.png",))
    assert "cut.jpg" in messages[-1] and "cut.jpg" in names


@pytest.mark.parametrize("damage", [b"", b"x" * 50, None])
def test_a_damaged_manifest_is_made_anew(folder, looked_at, tmp_path, damage):
    first = told_by(folder)
    (kept,) = (tmp_path / "cache" / "manifests").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40] if damage is None else damage)
    looked_at.clear()
    assert told_by(folder) == first and len(looked_at) == 20
    looked_at.clear()
    assert told_by(folder) == first and looked_at == ["bad.png"]


def test_without_a_place_for_it_every_run_looks_again(folder, looked_at, tmp_path):
    (tmp_path / "cache").write_text("a file")
    first = told_by(folder)
    looked_at.clear()
    assert told_by(folder) == first and len(looked_at) == 20


def test_an_archive_is_checked_as_its_folder_is(folder, looked_at, tmp_path):
    shutil.make_archive(str(tmp_path / "images"), "zip", folder)
    (_, unpacked, names), (messages, record, packed) = told_by(folder), told_by(tmp_path / "images.zip")
    assert (record, packed) == (unpacked, names) and f"{tmp_path}/images.zip/bad.png: not an image" in messages[0]
    continued = check(tmp_path / "images.zip", recorded=unpacked)  # a run that began with the folder
    assert continued[0].names == names


def test_an_image_that_can_be_read_now_is_used_though_its_file_is_as_it_was(folder, looked_at, monkeypatch):
    """A right that was missing, a disk that was away: neither size nor time of the file tells."""
    able = image_set_module.look_at
    with monkeypatch.context() as patch:
        patch.setattr(
            image_set_module,
            "look_at",
            lambda source, index: "Permission denied" if source.name(index) == "003.png" else able(source, index),
        )
        assert told_by(folder)[1].unreadable == ("003.png", "bad.png")
    assert told_by(folder)[1].unreadable == ("bad.png",)
