"""Many cases in one test: each is run, each that fails is named, and none sees another's folder."""

from __future__ import annotations

import pytest

from tests.cases import each


def test_every_case_runs_and_each_that_fails_is_named(tmp_path):
    seen = []

    @each("number, word", [(1, "one"), (2, "two"), (3, "three")])
    def check(number, word, tmp_path):
        seen.append((number, tmp_path.name, list(tmp_path.iterdir())))
        (tmp_path / "left").touch()
        if number == 1:
            pytest.fail("no")
        assert word != "three"

    with pytest.raises(AssertionError, match=r"(?s)2 of 3 cases failed.*case 0, 1, 'one'.*case 2, 3, 'three'"):
        check(tmp_path=tmp_path)
    assert seen == [(1, "0", []), (2, "1", []), (3, "2", [])]
