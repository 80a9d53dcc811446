"""Strict configuration: what is accepted, and the exact kind of help when it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping, load_config, load_yaml, merge, parse_overrides
from tests.cases import each


@dataclass(frozen=True)
class Inner:
    epochs: int = 1
    rate: float = 0.5
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    root: Path
    inner: Inner = field(default_factory=Inner)
    mode: Literal["cosine", "step"] = "cosine"
    limit: int | None = None
    flag: bool = False

    def __post_init__(self) -> None:
        if self.limit == 13:
            raise ValueError("limit must not be 13")


def build(values):
    return from_mapping(Outer, {"root": "x", **values}, where="test.yaml")


def test_values_take_their_declared_types():
    outer = build({"inner": {"rate": 1, "milestones": [1, 2]}, "limit": None, "mode": "step"})
    assert outer == Outer(Path("x"), Inner(1, 1.0, (1, 2)), "step", None)
    assert isinstance(outer.inner.rate, float)


def test_exponents_without_a_dot_are_numbers():
    assert build({"inner": {"rate": "1e-4"}}).inner.rate == 1e-4
    assert build(parse_overrides(["inner.rate=1e-4"])).inner.rate == 1e-4


@each(
    ("values", "message"),
    [
        ({"inner": {"epoch": 3}}, "did you mean `inner.epochs`"),
        ({"epochs": 3}, "did you mean `inner.epochs`"),
        ({"zzzz": 3}, "valid keys: root"),
        ({"inner": {"epochs": 1.5}}, "`inner.epochs` expected int, found 1.5"),
        ({"inner": {"epochs": True}}, "`inner.epochs` expected int, found True"),
        ({"inner": {"rate": "fast"}}, "`inner.rate` expected float, found 'fast'"),
        ({"inner": 3}, "`inner` expected a group of keys"),
        ({"inner": {"milestones": 3}}, "expected a list"),
        ({"mode": "cosin"}, "did you mean 'cosine'"),
        ({"limit": "many"}, "`limit` expected int"),
        ({"flag": 1}, "`flag` expected bool"),
        ({"limit": 13}, "limit must not be 13"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(values, message):
    with pytest.raises(ConfigError, match="test.yaml") as error:
        build(values)
    assert message in str(error.value)


def test_a_missing_required_key_is_named():
    with pytest.raises(ConfigError, match="missing key `root`"):
        from_mapping(Outer, {}, where="test.yaml")


@each("override", ["epochs", "=3", "a..b=1", "a=[1"])
def test_a_malformed_override_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        parse_overrides([override])


@each("typed, taken", [
    ("2024_01", "2024_01"), ("007", "007"), ("photos #1", "photos #1"), ("a: b", "a: b"), ("[x]", "[x]"), ("2024-01-05", "2024-01-05"),
    ("'photos #1'", "photos #1"), ("null", None), ("", None),
])  # fmt: skip
def test_a_path_is_taken_as_it_is_typed(typed, taken):
    assert parse_overrides([f"data.root={typed}", f"monitor.labelled={typed}"]) == {
        "data": {"root": taken},
        "monitor": {"labelled": taken},
    }


def test_overrides_nest_and_win():
    assert parse_overrides(["a.b=1", "a.c=[1, 2]", "d=text"]) == {"a": {"b": 1, "c": [1, 2]}, "d": "text"}
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    with pytest.raises(ConfigError, match="given twice"):
        parse_overrides(["a=1", "a=2"])


@each(
    ("override", "blamed"),
    [
        ("inner.epoch=3", "command line: unknown key `inner.epoch`; did you mean `inner.epochs`"),
        ("inner={epoch: 3}", "command line: unknown key `inner.epoch`"),
        ("inner.milestones=[a]", "command line: `inner.milestones[0]` expected int"),
        ("limit.low=1", "command line: `limit` expected int"),
        ("limit=13", "run.yaml and the command line: limit must not be 13"),
        ("flag=true", "run.yaml: unknown key `modes`"),  # the control: the file's own mistake
    ],
)
def test_a_mistake_is_blamed_on_the_source_that_made_it(tmp_path, override, blamed):
    (tmp_path / "run.yaml").write_text("root: x\n" + ("modes: step\n" if override == "flag=true" else ""))
    with pytest.raises(ConfigError) as error:
        load_config(Outer, tmp_path / "run.yaml", [override])
    assert blamed in str(error.value) and ("run.yaml" in blamed or "run.yaml" not in str(error.value))


def test_a_home_folder_that_the_shell_left_alone_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build(parse_overrides(["root=~/images"])).root == tmp_path / "images"
    with pytest.raises(ConfigError, match="`root`: ~nobody-here/images"):
        build({"root": "~nobody-here/images"})


def test_bases_are_merged_underneath_later_ones_over_earlier_ones(tmp_path):
    (tmp_path / "base.yaml").write_text("a: {b: 1, c: 2}\n")
    (tmp_path / "other.yaml").write_text("a: {c: 5, d: 6}\n")
    (tmp_path / "run.yaml").write_text("base: base.yaml\na: {b: 3}\n")
    assert load_yaml(tmp_path / "run.yaml") == {"a": {"b": 3, "c": 2}}
    (tmp_path / "run.yaml").write_text("base: [base.yaml, other.yaml]\na: {b: 3}\n")
    assert load_yaml(tmp_path / "run.yaml") == {"a": {"b": 3, "c": 5, "d": 6}}


def test_a_base_is_a_shipped_file_where_none_lies_beside(tmp_path):
    (tmp_path / "run.yaml").write_text("base: methods/moco_v2.yaml\n")
    assert load_yaml(tmp_path / "run.yaml", "pretrain")["method"]["name"] == "moco_v2"
    with pytest.raises(ConfigError, match=r"run\.yaml: `base`: no configuration file at methods/moco_v2\.yaml"):
        load_yaml(tmp_path / "run.yaml", "linear")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch canary']", "python"),
        ("a: 1\na: 2\n", "given twice"),
        ("- 1\n", "expected `key: value`"),
        ("a: [1", "not plain YAML"),
        ("base: run.yaml\n", "circle"),
        ("base: 3\n", "expected a path"),
        ("base: absent.yaml\n", "`base`: no configuration file at absent.yaml"),
    ],
)
def test_unusable_yaml_is_refused_and_never_run(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(tmp_path / "run.yaml")
    assert not (tmp_path / "canary").exists()
