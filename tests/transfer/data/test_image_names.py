"""Names of images as tools write them: which file each means, what is said about it, and what is never reached."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from transfer.data.image_names import ImageNames
from transfer.data.problems import Problem


def find(names: ImageNames, name: str) -> tuple[str | None, list[Problem]]:
    search, said = names.find(name, "images[0]"), []
    while True:
        try:
            said.append(next(search))
        except StopIteration as end:
            return end.value, said


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export folder with images/ in it, and a file outside of it."""
    for name in ("images/1.jpg", "images/my dog.jpg", "images/2.JPG", "images/a%20b.jpg", "images/sub/3.jpg", "4.png"):
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "secret.jpg").touch()
    return tmp_path / "export"


@pytest.mark.parametrize("name", ["1.jpg", "./1.jpg", "sub/3.jpg", "my dog.jpg", "a%20b.jpg"])
def test_a_name_that_fits_as_it_stands_is_taken_without_a_word(export: Path, name: str) -> None:
    assert find(ImageNames(export / "images"), name) == (str(export / "images" / name), [])


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("sub\\3.jpg", "sub/3.jpg", "backslashes"),
        ("images\\1.jpg", "1.jpg", "backslashes and a path from another folder"),
        ("images/1.jpg", "1.jpg", "a path from another folder"),
        ("../images/1.jpg", "1.jpg", "a path from another folder"),
        ("..\\images\\1.jpg", "1.jpg", "backslashes"),
        ("../../1.jpg", "1.jpg", "a path from another folder"),
        ("../sub/3.jpg", "sub/3.jpg", "a path from another folder"),
        ("my%20dog.jpg", "my dog.jpg", "URL encoding"),
        ("a b.jpg", "a%20b.jpg", "URL encoding"),
        ("sub%2F3.jpg", "sub/3.jpg", "URL encoding"),
        ("1.JPG", "1.jpg", "another case of the suffix"),
        ("2.jpg", "2.JPG", "another case of the suffix"),
        ("images\\my%20dog.JPG", "my dog.jpg", "another case of the suffix"),
    ],
)
def test_a_name_written_otherwise_is_mapped_to_its_file_and_said(export: Path, name, file, how) -> None:
    path, said = find(ImageNames(export / "images"), name)
    assert path == str(export / "images" / file)
    assert [problem.repaired for problem in said] == [True]
    assert how in said[0].kind and said[0].found == f"{name} -> {file}"


def test_an_absolute_name_is_taken_inside_the_folder_alone(export: Path) -> None:
    names = ImageNames(export / "images")
    path, (said,) = find(names, str(export / "images" / "sub" / "3.jpg"))
    assert path == str(export / "images" / "sub" / "3.jpg") and said.kind == "image names with an absolute path"
    path, (said,) = find(names, str(export.parent / "secret.jpg"))
    assert path is None and said.kind == "image names that lead out of the image folder" and not said.repaired


def test_names_may_start_from_the_folder_of_the_annotation_file(export: Path) -> None:
    names = ImageNames(export / "images", relative_to=export / "annotations")
    assert find(names, "../images/sub/3.jpg")[0] == str(export / "images/sub/3.jpg")


@pytest.mark.parametrize(
    "name", ["../../secret.jpg", "..\\..\\secret.jpg", "%2e%2e/%2e%2e/secret.jpg", "../secret.jpg"]
)
def test_no_spelling_reaches_a_file_outside(export: Path, name: str) -> None:
    path, _ = find(ImageNames(export / "images"), name)
    assert path is None or not Path(path).exists()


@pytest.mark.parametrize("name", ["C:\\data\\1.jpg", "C:/data/1.jpg", "/data/1.jpg", "../../elsewhere/../sub/3.jpg"])
def test_a_name_of_another_place_is_refused_with_what_to_write(export: Path, name: str) -> None:
    path, (said,) = find(ImageNames(export / "images"), name)
    assert path is None and "write them relative to" in said.remedy and not said.repaired


def test_a_link_that_leads_out_is_followed_under_its_own_name_and_under_no_other(export: Path) -> None:
    (export / "images" / "link.jpg").symlink_to(export.parent / "secret.jpg")
    names = ImageNames(export / "images")
    assert find(names, "link.jpg") == (str(export / "images" / "link.jpg"), [])  # the user laid it there
    assert find(names, "images\\link.jpg")[0] == str(
        export / "images" / "images\\link.jpg"
    )  # not found: reported missing


def test_a_name_that_fits_several_files_is_in_doubt(export: Path) -> None:
    (export / "images" / "2.Jpg").touch()
    path, (said,) = find(ImageNames(export / "images"), "2.jpg")
    assert path is None and "2.JPG" in said.found and "2.Jpg" in said.found and not said.repaired
    assert find(ImageNames(export / "images"), "2.JPG") == (str(export / "images" / "2.JPG"), [])


def test_both_unicode_forms_of_a_name_are_one(export: Path) -> None:
    (export / "images" / unicodedata.normalize("NFD", "café.jpg")).touch()
    path, (said,) = find(ImageNames(export / "images"), unicodedata.normalize("NFC", "café.jpg"))
    assert path is not None and Path(path).is_file() and "Unicode" in said.kind


@pytest.mark.parametrize("name", ["", "a\0.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_refused(export: Path, name: str) -> None:
    path, (said,) = find(ImageNames(export / "images"), name)
    assert path is None and not said.repaired


@pytest.mark.parametrize("name", ["absent.jpg", "sub\\absent.jpg", "x" * 5000, "sub/../absent.jpg", "."])
def test_a_missing_file_is_left_to_the_check_of_the_images(export: Path, name: str) -> None:
    path, said = find(ImageNames(export / "images"), name)
    assert said == [] and path is not None and path.startswith(str(export / "images"))
