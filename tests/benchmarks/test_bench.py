"""`make bench`: that it still runs, that what it compares computes the same, and that the page shows the stored figures."""

from __future__ import annotations

import json
import sys

import pytest

from tests.benchmarks import bench, evaluation_speed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_quick_bench_measures_every_section(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--output", str(tmp_path / "out.json")])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    bench.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["rows"]) == set(bench.SECTIONS)
    rows = [row for rows in found["rows"].values() for row in rows]
    assert len(rows) == 10 and all(row["ours"]["median"] > 0 and row["times_better"]["median"] > 0 for row in rows)
    assert "host" not in json.dumps(found) and bench.markdown(found) in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("ways", [evaluation_speed.coco_ways, evaluation_speed.mask_ways, evaluation_speed.voc_ways])
@pytest.mark.filterwarnings("ignore")
def test_both_evaluators_find_the_same_average_precision(tmp_path, ways):
    made = ways(tmp_path, num_images=30, num_detections=10)  # every class occurs
    ours, reference = made["ours"](), made["reference"]()
    assert 1 < ours < 90 and ours == pytest.approx(reference, abs=0.01)


def test_of_a_time_less_is_better_and_of_a_rate_more():
    time = bench.compared("x", unit="ms", baseline="y", reference=[4.0, 6.0, 4.0], ours=[2.0, 2.0, 4.0])
    rate = bench.compared("x", unit="images/s", baseline="y", reference=[4.0], ours=[2.0])
    assert time["times_better"] == {"median": 2.0, "smallest": 1.0, "largest": 3.0}
    assert rate["times_better"]["median"] == 0.5


def test_turns_are_interleaved_and_the_first_is_not_counted():
    order: list[str] = []
    taken = bench.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, turns=2)
    assert "".join(order) == "ababab" and [len(times) for times in taken.values()] == [2, 2]


def test_a_block_is_put_at_the_end_once_and_then_replaced_where_it_stands():
    first = bench.with_block("# Page\n", "one")
    moved = first + "\nbelow\n"
    assert bench.with_block(moved, "two") == moved.replace("one", "two") and first.startswith(
        "# Page\n\n" + bench.BEGIN
    )


def test_the_page_shows_the_stored_figures():
    page = bench.DOCS_PAGE.read_text()
    if bench.BEGIN not in page and not bench.DOCS_JSON.exists():
        pytest.skip("no run of `make bench` has been written into docs/ yet")
    found = json.loads(bench.DOCS_JSON.read_text())
    assert not found["quick"] and bench.with_block(page, bench.markdown(found)) == page
