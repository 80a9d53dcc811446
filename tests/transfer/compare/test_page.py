"""The report: a page with nothing from outside and nothing unescaped, and two text files with equal figures."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from pretrain.base.errors import ConfigError, DataError
from tests.transfer.conftest import split
from transfer.compare import page as report_html
from transfer.compare.experiments import group_runs
from transfer.compare.page import (
    TEMPLATES,
    all_commands,
    render_html,
    render_markdown,
    write_report,
)
from transfer.compare.results import read_runs

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = '<script>alert("x")</script>&"\'><img src=http://evil.example/x.png>'


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and tags left open or closed out of order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open, self.crossed = [], "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def parts(path):
    runs = read_runs([path])
    return runs, group_runs(runs.all)


def render(path):
    return render_html(*parts(path))


@pytest.fixture(scope="module")
def example(tmp_path_factory, write_runs):
    return render(write_runs.example(tmp_path_factory.mktemp("page") / "runs"))


@pytest.fixture(scope="module")
def page(example):
    return Page(example)


def test_the_page_is_well_formed(page):
    assert page.open == [] and page.crossed == []
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)


def test_the_page_loads_nothing_from_outside_and_runs_nothing(example, page):
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#")), attributes[name]
        assert not any(name.startswith("on") for name in attributes)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "http://" not in example and "https://" not in example and "@import" not in example and "url(" not in example
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", example):
        text = base64.b64decode(svg).decode()
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]+)"', text)) and "<script" not in text


def test_every_picture_is_there_with_words_for_who_cannot_see_it(page):
    pictures = page.all("img")
    assert all(picture["alt"] and int(picture["width"]) > 0 for picture in pictures)
    alts = " | ".join(picture["alt"] for picture in pictures)
    for words in (
        "Pre-training loss",
        "Detection: loss",
        "Linear readout accuracy",
        "every seed",
        "views",
        "ground truth",
    ):
        assert words in alts, words
    assert sum("0.png" in picture["alt"] for picture in pictures) == 3  # truth, random, infomin


def test_figures_commands_proof_and_environment_stand_on_the_page(page):
    for words in (
        "28.0 ± 2.6",
        "57.0 ± 2.0",
        "+7.0, 95 % interval +0.4 to +13.6: higher than random",
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
        "python tools/linear_eval.py --init-name infomin seed=1",
        "python tools/train_net.py",
        "relative_difference / res5",
        "58.395, 57.12, 57.375",
        "cpu / count",
        "1 unfinished run",
        "detect/infomin_seed3 (detection): running since 2026-11-27T03:00:00+00:00, held by somewhere, pid 7; in no average",
    ):
        assert words in page.text, words


def test_an_unfinished_runs_figures_are_nowhere(page):
    assert "99.0" not in page.text


def test_links_within_the_page_lead_somewhere(page):
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= anchors


def evil(place):
    return f"{place}: {EVIL}"


@pytest.fixture(scope="module")
def evil_page(tmp_path_factory, write_runs):
    """A page of runs that carry markup wherever a run can carry text."""
    folder = tmp_path_factory.mktemp("evil") / '<img src="x" onerror="1">'
    for init in ("random", evil("init")):
        run = write_runs.detection(
            folder / "detect" / init[:4],
            init=init,
            seed=0,
            ap50=20.0,
            weights=evil("weights") if init != "random" else None,
            train=split(evil("train_data"), 5),
            test=split(evil("test_data"), 5),
            classes=[evil("class"), "b"],
            metric=evil("metric"),
            config_file=evil("config_file"),
            commands=(evil("command"),),
        )
        values = json.loads((run / "record.json").read_text())
        if "sidecar" in values["details"]:
            values["details"]["sidecar"]["arch"] = evil("sidecar")
            (run / "record.json").write_text(json.dumps(values))
        sample = {"file": f"/nowhere/{evil('file').replace('/', '-')}", "ground_truth": [], "predictions": []}
        drawn = write_runs.image(folder / 'a" onerror="1" x="<b>.png')
        (run / "samples.json").write_text(json.dumps({"images": [sample, {**sample, "file": str(drawn)}]}))
    shared = {"train": split(evil("train_data"), 5), "test": split(evil("test_data"), 5)}
    settings = {"A.B": evil("setting")}  # near the others: what differs is shown
    write_runs.detection(folder / "detect" / "near", init="random", seed=0, ap50=20.0, settings=settings, **shared)
    write_runs.detection(
        folder / "detect" / "failed", init="x", seed=0, ap50=1.0, status="failed", error=evil("error"),
        holder={"host": evil("host"), "pid": 1},
    )  # fmt: skip
    write_runs.linear(folder / "linear", init=evil("row"), seed=0, top1=3.0, protocol={"name": evil("protocol")})
    write_runs.pretraining(
        folder / "pretrain",
        config={"method": {"name": evil("method")}, "data": {"root": evil("root")}},
        environment={"latest": {evil("key"): evil("environment")}},
        commands=(evil("typed"),),
    )
    return Page(render(folder))


def test_markup_from_a_run_stays_text(evil_page):
    assert evil_page.crossed == [] and evil_page.open == []
    assert evil_page.all("script") == [] and not any("onerror" in attributes for _, attributes in evil_page.tags)
    assert all(picture["src"].startswith("data:") for picture in evil_page.all("img"))
    assert '<img src="x" onerror="1">' in evil_page.text and "A.B: 'setting: <script>" in evil_page.text


@pytest.mark.parametrize(
    "place",
    ["init", "train_data", "test_data", "command", "sidecar", "file", "row", "protocol", "method", "root",
     "key", "environment", "typed", "class", "metric", "error", "host"],
)  # fmt: skip
def test_markup_from_a_run_is_shown_as_it_was_written(evil_page, place):
    shown = "".join(evil_page.text.split())
    assert "".join(evil(place).split()).replace("/", "-" if place == "file" else "/") in shown


def test_runs_of_one_kind_give_a_page_of_that_kind(tmp_path, make_linear):
    make_linear(tmp_path / "only", init="random", seed=0, top1=3.0)
    page = Page(render(tmp_path))
    assert "Linear readout" in page.text and "Detection" not in page.text and "Pre-training" not in page.text


def test_a_folder_with_nothing_finished_still_gives_a_page(tmp_path, make_pretraining):
    make_pretraining(tmp_path / "pretrain", finished=False)
    (tmp_path / "pretrain" / "views.png").write_bytes(b"broken")
    text = Page(render(tmp_path)).text
    assert "No finished run" in text and "unfinished" in text and "no views sheet" in text


def test_odd_configuration_and_environment_give_a_page(tmp_path, make_pretraining):
    make_pretraining(
        tmp_path / "pretrain",
        config={"method": "infomin", "views": [64]},
        environment={"latest": {"git": None, "cuda": {"devices": []}}},
    )
    assert "infomin" in Page(render(tmp_path)).text


def test_the_style_cannot_end_its_element_and_knows_paper(example):
    style = example[example.index("<style>") + 7 : example.index("</style>")]
    assert style.count("{") == style.count("}") > 20 and "<" not in style and "@media print" in style


def test_no_value_escapes_the_escaping():
    template = (TEMPLATES / "report.html.j2").read_text()
    assert "|safe" not in template.replace(" ", "") and "autoescape false" not in template


# --- the files --------------------------------------------------------------------------------------------------------


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


def test_near_experiments_stand_apart_and_say_what_differs(tmp_path, make_detection):
    for i, rate in enumerate([0.01, 0.02]):
        for seed in (0, 1):
            settings = {"SOLVER.BASE_LR": rate}
            make_detection(
                tmp_path / f"{i}{seed}" / "run", init="random", seed=seed, ap50=20.0 + 40 * i, settings=settings
            )
    for text in (Page(render(tmp_path)).text, render_markdown(*parts(tmp_path)).replace("\\", "")):
        assert "20.0 ± 0.0" in text and "60.0 ± 0.0" in text and "40.0" not in text
        assert "SOLVER.BASE_LR: 0.02 there, 0.01 here" in text and "SOLVER.BASE_LR 0.01" in text


def test_the_baseline_of_the_report_is_the_one_that_is_asked_for(example_runs, tmp_path, no_curves):
    write_report([example_runs], tmp_path / "out", baseline="infomin")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Difference to infomin" in text and "lower than infomin" in text and "Difference to random" not in text
    with pytest.raises(ConfigError, match="did you mean infomin"):
        write_report([example_runs], tmp_path / "other", baseline="infomni")
    assert not (tmp_path / "other").exists()


def test_unfinished_runs_enter_no_table(example_runs):
    text = render_markdown(*parts(example_runs))
    assert re.search(
        r"Unfinished runs .*\n\n- detection: .*infomin\\_seed3 \(running since 2026.*somewhere, pid 7\)", text
    )
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
    make_linear(tmp_path / "run", init="random", seed=0, top1=3.0, commands=("python x.py '\n```\n# heading'",))
    text = render_markdown(*parts(tmp_path))
    assert text.count("````") == 2 and text.index("````") < text.index("# heading") < text.rindex("````")


def test_every_command_is_listed_once_with_its_run(example_runs):
    commands = all_commands(read_runs([example_runs]))
    assert len(commands) == 14 and len(set(commands)) == 14
    assert (
        example_runs / "pretrain",
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
    ) in commands


def test_why_published_figures_are_absent_stands_in_markdown(make_detection, tmp_path):
    config_file = "transfer/configs/voc/R_50_C4_24k.yaml"
    make_detection(tmp_path / "x" / "run", init="infomin", seed=0, ap50=80.0, config_file=config_file)
    text = render_markdown(*parts(tmp_path))
    assert "are not shown: 24,000 iterations there, 600 here" in text and "82.7" not in text


def test_nothing_is_written_when_a_run_is_damaged(example_runs, tmp_path):
    (example_runs / "detect" / "random_seed0" / "record.json").write_text("{")
    with pytest.raises(DataError):
        write_report([example_runs], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_an_error_of_the_users(tmp_path, make_linear):
    make_linear(tmp_path / "run", init="random", seed=0, top1=3.0)
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot write the report"):
            write_report([tmp_path / "run"], output)
