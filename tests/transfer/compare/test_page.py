"""The page: nothing from outside, nothing unescaped, every part that the runs give."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from transfer.compare.groups import group_detection, group_readouts
from transfer.compare.search import read_runs

from transfer.compare.page import render_html

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


def render(path):
    runs = read_runs([path])
    return render_html(runs, group_detection(runs.detection), group_readouts(runs.linear))


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
        "above random in 3 of 3 seeds",
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
        "python tools/linear_eval.py --init-name infomin seed=1",
        "python tools/train_net.py",
        "relative_difference / res5",
        "58.395, 57.12, 57.375",
        "cpu / count",
        "1 unfinished run",
        "detect/infomin_seed3 (detection): no result.json; in no average",
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
    places = ("train_data", "test_data", "config_file", "command")
    for init in ("random", evil("init")):
        over = {place: evil(place) for place in places} | {"weights": evil("weights") if init != "random" else ""}
        run = write_runs.detection(folder / "detect" / init[:4], init=init, seed=0, ap50=20.0, **over)
        sidecar = json.loads((run / "result.json").read_text())["sidecar"]
        if sidecar:
            changed = json.loads((run / "result.json").read_text()) | {"sidecar": {**sidecar, "arch": evil("sidecar")}}
            (run / "result.json").write_text(json.dumps(changed))
        sample = {"file": f"/nowhere/{evil('file').replace('/', '-')}", "ground_truth": [], "predictions": []}
        drawn = write_runs.image(folder / 'a" onerror="1" x="<b>.png')
        (run / "samples.json").write_text(json.dumps({"images": [sample, {**sample, "file": str(drawn)}]}))
    write_runs.linear(folder / "linear", init=evil("row"), seed=0, top1=3.0, protocol={"name": evil("protocol")})
    pretraining = write_runs.pretraining(folder / "pretrain")
    (pretraining / "config.yaml").write_text(
        json.dumps({"method": {"name": evil("method")}, "data": {"root": evil("root")}})
    )
    (pretraining / "environment.json").write_text(json.dumps({evil("key"): evil("environment")}))
    (pretraining / "command.txt").write_text(evil("typed"))
    return Page(render(folder))


def test_markup_from_a_run_stays_text(evil_page):
    assert evil_page.crossed == [] and evil_page.open == []
    assert evil_page.all("script") == [] and not any("onerror" in attributes for _, attributes in evil_page.tags)
    assert all(picture["src"].startswith("data:") for picture in evil_page.all("img"))
    assert '<img src="x" onerror="1">' in evil_page.text


@pytest.mark.parametrize(
    "place",
    ["init", "train_data", "test_data", "command", "sidecar", "file", "row", "protocol", "method", "root",
     "key", "environment", "typed"],
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
    path = make_pretraining(tmp_path / "pretrain")
    (path / "config.yaml").write_text("method: infomin\nviews: [64]\n")
    (path / "environment.json").write_text('{"git": null, "cuda": {"devices": []}}')
    assert "infomin" in Page(render(tmp_path)).text
