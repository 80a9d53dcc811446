"""The three files: equal figures in each, whole or absent, and a CSV that gives every figure back."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict

import numpy as np
import pytest
from transfer.compare.groups import group_detection, group_readouts
from transfer.compare.report import CSV_COLUMNS, all_commands, render_csv, render_markdown, write_report
from transfer.compare.search import read_runs

from pretrain.base.errors import ConfigError, DataError
from transfer.compare import page as report_html


def parts(path):
    runs = read_runs([path])
    return runs, group_detection(runs.detection), group_readouts(runs.linear)


@pytest.fixture
def table(example_runs):
    _, comparisons, readouts = parts(example_runs)
    return list(csv.DictReader(render_csv(comparisons, readouts).splitlines()))


@pytest.fixture
def no_curves(monkeypatch):
    """Curves take most of a report's time and have their own tests."""
    for name in ("pretraining_curves", "detection_curves", "readout_curves", "seed_dots"):
        monkeypatch.setattr(report_html, name, lambda *arguments, **options: None)


def test_the_order_of_the_runs_changes_no_byte(example_runs, tmp_path, no_curves):
    folders = sorted(example_runs / name for name in ("detect", "pretrain", "readout"))
    for name, paths in (("a", folders), ("b", folders[::-1])):
        write_report(paths, tmp_path / name)
    for file in ("index.html", "report.md", "report.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_three_files_are_written_and_an_older_report_is_replaced(example_runs, tmp_path, no_curves):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("old")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    files = write_report([example_runs], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.html",
        "mine.txt",
        "report.csv",
        "report.md",
    ]
    assert files.html.read_text().startswith("<!DOCTYPE html>")
    assert (files.num_runs, files.num_unfinished) == (14, 1)


def test_csv_gives_every_runs_figures_back_exactly(table, example_runs):
    assert tuple(table[0]) == CSV_COLUMNS
    single = [row for row in table if row["level"] == "run"]
    assert len(single) == 6 * 6 + 6 * 2  # six detection runs of six figures, six readouts of two
    for row in single:
        file = "result.json" if row["table"] == "detection" else "linear_result.json"
        result = json.loads((example_runs / row["run"] / file).read_text())
        task, _, name = row["metric"].partition("/")
        expected = result["metrics"][task][name] if name else result[task]
        assert float(row["value"]) == expected and int(row["seed"]) == result["seed"]
        assert row["initialisation"] == result["init"]


def test_csv_means_and_deviations_are_those_of_its_own_figures(table):
    values = defaultdict(list)
    for row in table:
        if row["level"] == "run":
            values[row["table"], row["experiment"], row["initialisation"], row["metric"]].append(float(row["value"]))
    means = [row for row in table if row["level"] == "mean"]
    assert len(means) == len(values) == 2 * 6 + 2 * 2
    for row in means:
        own = values[row["table"], row["experiment"], row["initialisation"], row["metric"]]
        assert float(row["value"]) == pytest.approx(np.mean(own)) and int(row["n"]) == len(own) == 3
        assert float(row["std"]) == pytest.approx(np.std(own, ddof=1))


def test_csv_of_one_seed_has_no_deviation_and_odd_names_come_back(make_detection, tmp_path):
    name = 'a,"b"\n;c'
    make_detection(tmp_path / "runs" / "detect" / "x", init=name, seed=0, ap50=20.0)
    _, comparisons, readouts = parts(tmp_path / "runs")
    text = render_csv(comparisons, readouts)
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert {row["initialisation"] for row in rows} == {name}
    assert {(row["n"], row["std"]) for row in rows if row["level"] == "mean"} == {("1", "")}


def test_unfinished_runs_enter_no_table(table, example_runs):
    assert not any("infomin_seed3" in row["run"] for row in table)
    text = render_markdown(*parts(example_runs))
    assert re.search(r"Unfinished runs .*\n\n- detection: .*infomin\\_seed3 \(no result\.json\)", text)
    assert "99.0" not in text


def cells_of(text, first):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {first} ")
    ]


def test_markdown_shows_the_figures_of_the_page(example_runs):
    text = render_markdown(*parts(example_runs))
    assert [
        "infomin",
        "3",
        "15.4 ± 1.5",
        "28.0 ± 2.6",
        "14.0 ± 1.3",
        "13.4 ± 1.5",
        "26.0 ± 2.6",
        "12.0 ± 1.3",
    ] in cells_of(text, "infomin")
    assert ["random", "3", "32.0 ± 1.0", "90.0 ± 0.0"] in cells_of(text, "random")


def test_every_markdown_table_has_one_width(example_runs):
    widths = {}
    for block in re.findall(r"(?:^\|.*\n)+", render_markdown(*parts(example_runs)), flags=re.M):
        lines = block.strip().splitlines()
        widths[lines[0]] = {line.count("|") for line in lines}
        assert len(widths[lines[0]]) == 1
    assert len(widths) >= 3


def test_names_do_not_become_markdown(make_linear, tmp_path):
    make_linear(tmp_path / "run", init="a|b <i>*c*</i>\n# d `e`", seed=0, top1=3.0)
    text = render_markdown(*parts(tmp_path))
    row = next(line for line in text.splitlines() if "# d" in line)
    assert row.startswith("| a\\|b &lt;i&gt;\\*c\\*&lt;/i&gt; # d \\`e\\` |")


def test_a_command_cannot_leave_its_fence(make_linear, tmp_path):
    make_linear(tmp_path / "run", init="random", seed=0, top1=3.0, command="python x.py '\n```\n# heading'")
    text = render_markdown(*parts(tmp_path))
    assert text.count("````") == 2 and text.index("````") < text.index("# heading") < text.rindex("````")


def test_every_command_is_listed_once_with_its_run(example_runs):
    commands = all_commands(read_runs([example_runs]))
    assert len(commands) == 13 and len(set(commands)) == 13
    assert (
        example_runs / "pretrain",
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
    ) in commands


def test_recalled_published_figures_are_labelled_in_markdown(make_detection, tmp_path):
    make_detection(
        tmp_path / "x" / "run",
        init="infomin",
        seed=0,
        ap50=80.0,
        config_file="transfer/configs/voc/R_50_C4_24k_infomin.yaml",
    )
    text = render_markdown(*parts(tmp_path))
    assert (
        "82.7\u2020" in text and "\u2020 UNVERIFIED" in text and "81.3\u2020" not in text and "NOT COMPARABLE" in text
    )


def test_nothing_is_written_when_a_run_is_damaged(example_runs, tmp_path):
    (example_runs / "detect" / "random_seed0" / "result.json").write_text("{")
    with pytest.raises(DataError):
        write_report([example_runs], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_an_error_of_the_users(tmp_path, make_linear):
    make_linear(tmp_path / "run", init="random", seed=0, top1=3.0)
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot write the report"):
            write_report([tmp_path / "run"], output)
