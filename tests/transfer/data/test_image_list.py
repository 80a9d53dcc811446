"""Images named on a command line: each once, under names that are different."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.base.errors import DataError
from transfer.data.image_list import image_ids, list_inputs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/x.jpg", "a/deep/y.PNG", "b/x.jpg", "a/notes.md", "a/._x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_is_searched_in_depth_and_is_the_root(tree: Path) -> None:
    found = list_inputs([str(tree / "a")])
    assert found.root == tree / "a" and found.names == ("deep/y.PNG", "x.jpg")


def test_several_words_keep_their_order_and_names_that_do_not_collide(tree: Path) -> None:
    found = list_inputs([str(tree / "b" / "x.jpg"), str(tree / "a"), str(tree / "a" / "x.jpg")])
    assert found.root == tree and found.names == ("b/x.jpg", "a/deep/y.PNG", "a/x.jpg") and found.num_repeated == 1


def test_a_list_file_gives_its_lines(tree: Path) -> None:
    (tree / "list.txt").write_text("# some\nb/x.jpg\na/x.jpg\n")
    assert list_inputs([str(tree / "list.txt")]).names == ("b/x.jpg", "a/x.jpg")
    (tree / "list.txt").write_text("b/z.jpg\n")
    with pytest.raises(DataError, match="line 1: b/z.jpg: no such file"):
        list_inputs([str(tree / "list.txt")])


def test_all_that_is_missing_is_named(tree: Path) -> None:
    with pytest.raises(DataError, match="found nothing at .*/nowhere, .*q.jpg"):
        list_inputs([str(tree / "nowhere"), str(tree / "a"), str(tree / "q.jpg")])


def test_numbers_of_coco_are_taken_from_its_names() -> None:
    assert image_ids(["val/000000000139.jpg", "val/000000000285.jpg"]) == (139, 285)
    assert image_ids(["a/1.jpg", "b/01.jpg"]) == (1, 2)
    assert image_ids(["a.jpg", "7.jpg"]) == (1, 2)
