"""The command against a server on this machine, on every data set in small: what comes out, what stops it, what goes on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from unittest import mock

import cv2
import numpy as np
import pytest

from pretrain.base import http_requests
from pretrain.base.atomic import LOCK, lock_folder
from tests.tools.in_process import run_tool_here
from tests.transfer.data.public.miniature import CIFAR_CLASSES, MINIATURES, STL_CLASSES, WNIDS, jpeg
from transfer.data.public import prepare as module
from transfer.data.public import progress, tree
from transfer.data.public.table import DATA_SETS

LAYOUT = {
    "voc2007": ("VOC2007/JPEGImages/000001.jpg", "VOC2007/Annotations/000009.xml", "VOC2007/ImageSets/Main/test.txt"),
    "voc2012": ("VOC2012/JPEGImages/000001.jpg", "VOC2012/ImageSets/Main/trainval.txt"),
    "coco2017": (
        "coco/annotations/instances_val2017.json",
        "coco/train2017/000000000001.jpg",
        "coco/val2017/000000000005.jpg",
    ),
    "imagenet": (
        f"imagenet/train/{WNIDS[0]}/{WNIDS[0]}_2.JPEG",
        f"imagenet/val/{WNIDS[0]}/ILSVRC2012_val_00000002.JPEG",
    ),
    "cifar10": ("cifar10/train/airplane/batch5_00001.png", "cifar10/val/frog/test_00000.png"),
    "stl10": ("stl10/train/bird/000001.png", "stl10/val/ship/000000.png", "stl10/unlabeled/000003.png"),
    "caltech101": ("caltech101/background/image_0002.jpg",),
}


@pytest.mark.parametrize("name", MINIATURES)
def test_a_data_set_is_fetched_laid_out_and_sound_and_a_second_run_fetches_nothing(prepare, server, name):
    done = prepare(name)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert f"{name}: sound (counts and annotations)" in done.stdout and "use:  " in done.stdout
    for place in LAYOUT[name]:
        assert (prepare.root / place).is_file(), place
    assert not list(prepare.root.rglob(".*"))
    server.requests.clear()
    assert prepare(name).returncode == 0 and server.requests == []
    verified = prepare(name, "--verify", fetch=False)
    assert (verified.returncode, verified.stderr) == (
        0,
        "",
    ) and f"{name}: sound (counts, annotations, the bytes" in verified.stdout
    sums = [str(path.relative_to(prepare.root)) for path in (prepare.root / "prepared" / name).glob("*.sha256")]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", *sums], cwd=prepare.root, check=True)


@pytest.mark.parametrize(("name", "folder", "order"), [("cifar10", "train/frog", "C"), ("stl10", "val/ship", "F")])
def test_pixels_are_where_the_publisher_has_them(prepare, name, folder, order):
    assert prepare(name).returncode == 0
    side = 32 if order == "C" else 96
    expected = np.zeros((side, side, 3), np.uint8)
    expected[..., 2], expected[2, 5, 0] = 7, 255
    paths = sorted((prepare.root / name / folder).iterdir())
    assert paths
    for path in paths:
        assert np.array_equal(cv2.imread(str(path))[..., ::-1], expected)
    classes = CIFAR_CLASSES if name == "cifar10" else STL_CLASSES
    assert sorted(path.name for path in (prepare.root / name / "train").iterdir()) == sorted(classes)


def test_validation_images_of_imagenet_get_the_classes_of_the_development_kit(prepare):
    assert prepare("imagenet").returncode == 0
    val = prepare.root / "imagenet" / "val"
    assert {path.name[-6:-5]: path.parent.name for path in val.glob("*/*")} == {
        "1": WNIDS[1],
        "2": WNIDS[0],
        "3": WNIDS[1],
    }
    assert (val / WNIDS[0] / "ILSVRC2012_val_00000002.JPEG").read_bytes() == jpeg(11)


def test_caltech_has_thirty_training_images_a_class_the_same_ones_again_and_no_background_among_the_classes(
    prepare, tmp_path
):
    names = []
    for root in (tmp_path / "one", tmp_path / "two"):
        assert prepare("caltech101", root=root).returncode == 0
        train = sorted(str(path.relative_to(root)) for path in (root / "caltech101" / "train").glob("*/*"))
        assert Counter(name.split("/")[2] for name in train) == {"ant": 30, "bass": 30}
        assert sorted(path.name for path in (root / "caltech101" / "val").iterdir()) == ["ant", "bass"]
        names.append(train)
    assert names[0] == names[1]


def test_the_real_table_is_whole(monkeypatch):
    lengths = {"md5": 32, "sha256": 64}
    for name, dataset in DATA_SETS.items():
        assert dataset.folders and dataset.uses and all("{root}" in use for use in dataset.uses), name
        assert bool(dataset.login_page) == any(not archive.urls for archive in dataset.archives), name
        for archive in dataset.archives:
            assert archive.published.digests and archive.checksum_from
            for kind, digest in archive.published.digests.items():
                assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", digest)
            assert all(url.endswith(f"/{archive.name}") for url in archive.urls)
    from torchvision.datasets import imagenet, stl10, voc

    theirs = {
        **{
            entry["filename"]: entry["md5"]
            for year, entry in voc.DATASET_YEAR_DICT.items()
            if year in ("2012", "2007", "2007-test")
        },
        **dict(imagenet.ARCHIVE_META.values()),
        stl10.STL10.filename: stl10.STL10.tgz_md5,
    }
    ours = {
        archive.name: archive.published.digests.get("md5") for one in DATA_SETS.values() for archive in one.archives
    }
    assert theirs.items() <= ours.items() and len(theirs) == 7


def test_archives_on_the_disk_are_used_and_the_rest_is_fetched(prepare, server, archives, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(archives / "VOCtest_06-Nov-2007.tar", own)
    done = prepare("voc2007", "--archives", own, "--delete-archives")
    assert done.returncode == 0 and {path for path, _ in server.requests} == {"/VOCtrainval_06-Nov-2007.tar"}
    assert (own / "VOCtest_06-Nov-2007.tar").is_file()  # the user's own
    assert list((prepare.root / "archives").iterdir()) == []
    origins = json.loads((prepare.root / "prepared" / "voc2007" / "archives.json").read_text())["archives"]
    assert origins["VOCtest_06-Nov-2007.tar"]["from"] == str(own / "VOCtest_06-Nov-2007.tar")
    assert prepare("voc2007", "--verify", fetch=False).returncode == 0


def test_imagenet_without_its_archives_says_what_to_fetch_where(prepare, archives, tmp_path):
    done = prepare("imagenet", fetch=False)
    assert done.returncode == 2 and not prepare.root.exists()
    assert all(
        word in done.stderr
        for word in ("ILSVRC2012_img_train.tar", "devkit", "login", "https://image-net.org/", "--archives DIR")
    )
    assert prepare("imagenet", "--archives", archives, fetch=False).returncode == 0


def test_wrong_bytes_end_it_with_nothing_under_the_final_name(prepare, server):
    wrong = bytearray((server.root / "VOCtest_06-Nov-2007.tar").read_bytes())
    wrong[wrong.index(b"\xff\xd8\xff") + 300] ^= 1  # in an image
    server.replaced["/VOCtest_06-Nov-2007.tar"] = bytes(wrong)
    done = prepare("voc2007")
    found = hashlib.md5(wrong).hexdigest()
    assert done.returncode == 2 and f"found {found}" in done.stderr and "expected md5 " in done.stderr
    assert not (prepare.root / "VOC2007").exists() and not list(prepare.root.glob("archives/VOCtest*"))
    server.replaced.clear()
    server.requests.clear()
    assert prepare("voc2007").returncode == 0
    assert [path for path, _ in server.requests] == ["/VOCtest_06-Nov-2007.tar"]  # the other one was kept


def test_control_without_checksums_the_wrong_bytes_would_be_unpacked(prepare, server):
    wrong = bytearray((server.root / "VOCtest_06-Nov-2007.tar").read_bytes())
    wrong[wrong.index(b"\xff\xd8\xff") + 300] ^= 1  # in an image
    server.replaced["/VOCtest_06-Nov-2007.tar"] = bytes(wrong)
    with mock.patch("pretrain.base.download.difference", lambda published, digests: None):
        prepare("voc2007")
    assert (prepare.root / "VOC2007").exists()


def test_a_wrong_archive_on_the_disk_is_named_and_left_to_the_user(prepare, archives, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(archives, own)
    (own / "caltech-101.zip").write_bytes(b"half" * 100)
    done = prepare("caltech101", "--archives", own)
    assert (
        done.returncode == 2 and f"{own / 'caltech-101.zip'}: expected " in done.stderr and "remove it" in done.stderr
    )
    assert not (prepare.root / "caltech101").exists() and (own / "caltech-101.zip").is_file()


def test_a_stopped_download_goes_on_with_the_same_command(prepare, server, monkeypatch):
    monkeypatch.setattr(http_requests, "ATTEMPTS", 1)
    server.cut = 1
    done = prepare("voc2012")
    assert done.returncode == 2 and "connection ended after" in done.stderr
    part = prepare.root / "archives" / "VOCtrainval_11-May-2012.tar.part"
    kept, size = part.stat().st_size, (server.root / "VOCtrainval_11-May-2012.tar").stat().st_size
    assert kept == size // 2
    assert " of it are here" in prepare("voc2012", "--dry-run").stdout
    server.requests.clear()
    server.sent.clear()
    assert prepare("voc2012").returncode == 0
    assert server.requests == [("/VOCtrainval_11-May-2012.tar", f"bytes={kept}-")]
    assert server.sent == {"/VOCtrainval_11-May-2012.tar": size - kept} and not part.exists()


def test_ctrl_c_says_that_the_same_command_goes_on(prepare, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tree.Tree, "publish", mock.Mock(side_effect=KeyboardInterrupt))
        done = prepare("voc2012")
    assert done.returncode == 130 and "the same command goes on" in done.stderr
    assert not (prepare.root / "VOC2012").exists() and not list(prepare.root.rglob(".*"))
    assert prepare("voc2012").returncode == 0


def test_what_a_killed_run_left_is_cleared_and_folders_that_were_done_stay(prepare, server, monkeypatch):
    real = tree.Tree.publish

    def killed(self):
        if self.target.name == "train2017":
            raise SystemError("as kill -9 would")  # and leaves the temporary folder
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(tree.Tree, "publish", killed)
        patch.setattr(tree.Tree, "remove", lambda self: None)
        with pytest.raises(SystemError):
            prepare("coco2017")
    assert (prepare.root / "coco" / ".train2017.extracting").is_dir()
    before = (prepare.root / "coco" / "val2017").stat()
    server.requests.clear()
    assert prepare("coco2017").returncode == 0 and server.requests == []
    assert (prepare.root / "coco" / "val2017").stat() == before and not list(prepare.root.rglob(".*"))


def test_files_that_are_there_stay_and_missing_ones_are_added(prepare):
    home = prepare.root / "VOC2012" / "JPEGImages"
    home.mkdir(parents=True)
    (home / "000001.jpg").write_bytes(jpeg(1))
    inode = (home / "000001.jpg").stat().st_ino
    (prepare.root / "VOC2012" / "notes.txt").write_text("mine")
    done = prepare("voc2012")
    assert done.returncode == 0 and "1 were there" in done.stdout
    assert (home / "000001.jpg").stat().st_ino == inode and (
        prepare.root / "VOC2012" / "notes.txt"
    ).read_text() == "mine"
    (home / "000002.jpg").unlink()  # restored by the same command
    assert prepare("voc2012").returncode == 0 and (home / "000002.jpg").read_bytes() == jpeg(2)


def test_a_file_of_the_users_that_differs_is_never_overwritten(prepare):
    home = prepare.root / "VOC2012" / "JPEGImages"
    home.mkdir(parents=True)
    (home / "000001.jpg").write_bytes(b"mine")
    done = prepare("voc2012")
    assert done.returncode == 2 and "1 of its files are not those of the archive (JPEGImages/000001.jpg)" in done.stderr
    assert (home / "000001.jpg").read_bytes() == b"mine" and [path.name for path in home.iterdir()] == ["000001.jpg"]


def test_a_second_run_at_the_same_time_is_refused(prepare):
    with lock_folder(prepare.root / "prepared" / "voc2012", LOCK):
        done = prepare("voc2012")
        assert done.returncode == 2 and "in use by another running process" in done.stderr
        assert prepare("cifar10").returncode == 0  # another data set


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(prepare, server, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: mock.Mock(free=1_000_000))
    done = prepare("coco2017")
    assert done.returncode == 2 and "3 MB needed, 1 MB free" in done.stderr and "--delete-archives" in done.stderr
    assert server.requests == [] and not prepare.root.exists()
    assert "(not enough)" in prepare("coco2017", "--dry-run").stdout


def test_a_dry_run_writes_and_fetches_nothing(prepare, server):
    done = prepare("coco2017", "--dry-run")
    assert done.returncode == 0 and server.requests == [] and not prepare.root.exists()
    assert f"from {server.url}/train2017.zip" in done.stdout and "disk:  3 MB needed" in done.stdout


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    lines = []
    with progress.Progress("x.tar", "B", lines.append) as show:
        show(250_000_000, 1_000_000_000)
    assert re.fullmatch(r"x\.tar: 250 MB of 1\.0 GB \(25%\), .*/s", lines[0]) and len(lines) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["voc207"], "no public data set 'voc207'; expected one of voc2007, voc2012,"),
        (["VOC2007"], "did you mean voc2007?"),
        (["voc2012", "cocoo"], "no public data set 'cocoo'"),
        (["voc2012", "--archives", "nowhere"], "--archives nowhere: no such folder"),
        (["voc2012", "--base-url", "data/archives"], "expected http://SERVER/FOLDER"),
        (["voc2012", "--base-url", "file:///data"], "expected http://SERVER/FOLDER"),
        (["voc2012", "--base-url", "http://me:secret@server/x"], "~/.netrc"),
        (["voc2012", "--base-url", "http://127.0.0.1:9/x"], "127.0.0.1:9/x/VOCtrainval_11-May-2012.tar: "),
        (["voc2012", "--base-url", "http://127.0.0.1:port/x"], "expected http://SERVER/FOLDER"),
        (["voc2012", "--verify", "--delete-archives"], "leave out --delete-archives"),
        (["voc2012", "--verify"], "no such folder"),
        (["voc2012", "--verify", "--dry-run"], "not allowed with argument"),
        (["voc2012", "--root", __file__], "expected a folder, found a file"),
        (["--verify"], "required: NAME"),
    ],
)
def test_a_command_typed_wrong_is_explained(prepare, monkeypatch, words, message):
    monkeypatch.setattr(http_requests, "FIRST_PAUSE_SECONDS", 0.0)
    done = prepare(*words, fetch=False, root=None if "--root" in words else prepare.root)
    assert done.returncode == 2 and message in done.stderr and "secret" not in done.stderr
    assert not (prepare.root / "VOC2012").exists()


def test_the_help_names_every_data_set_with_its_size():
    done = run_tool_here("prepare_data.py", "--help")
    assert done.returncode == 0
    for name in DATA_SETS:
        assert re.search(rf"{name} .* [\d.]+ (MB|GB) of archives, +[\d.]+ (MB|GB) unpacked", done.stdout), name
