"""curves.png: drawn from the log alone, with the limits that judge a curve; left out where there is no curve."""

from __future__ import annotations

import json

from PIL import Image

from pretrain.run import curves as curves_module
from pretrain.run.curves import draw_curves


def write_log(folder, count, **more):
    entries = [{"step": 0, "epoch": 0.0, "knn": 21.0, "effective_rank": 50.0, "effective_rank_embedding": 30.0}]
    entries += [
        {
            "step": step,
            "epoch": step / 50,
            "loss": 6 - step / 100,
            "loss_instance": 6 - step / 100,
            "accuracy": 0.1,
            **more,
        }
        for step in range(1, count)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def panels_of(folder, monkeypatch, **more):
    """Title -> (names, limits) of what is drawn."""
    seen = {}

    def look(path, panels, entries, title):
        seen.update({panel.title: (curves_module._found(panel, entries), panel.limits) for panel in panels})

    monkeypatch.setattr(curves_module, "_draw", look)
    write_log(folder, 20, **more)
    assert draw_curves(folder, num_negatives=1024, feature_dim=128, chance=10.0)
    return seen


def test_a_panel_is_drawn_where_there_are_figures_with_random_weights_and_ceilings(tmp_path, monkeypatch):
    panels = panels_of(tmp_path, monkeypatch)
    assert set(panels) == {"loss, nats", "contrastive accuracy, %", "kNN probe, top-1 %", "effective rank"}
    assert panels["kNN probe, top-1 %"][1] == ((21.0, "random weights, 21.0 %"), (10.0, "chance, 10.0 %"))
    assert panels["loss, nats"][1][0][1] == "uniform guess, ln(K + 1) = 6.93"
    assert panels["loss, nats"][0] == ["loss_instance"]  # the loss is the same without a jigsaw branch


def test_with_the_jigsaw_branch_its_loss_is_a_curve_of_its_own(tmp_path, monkeypatch):
    panels = panels_of(tmp_path, monkeypatch, loss_jigsaw=7.0, key_std=0.08)
    assert panels["loss, nats"][0] == ["loss", "loss_instance", "loss_jigsaw"] and "spread" in panels


def test_the_picture_is_whole_and_a_run_of_a_few_steps_has_none(tmp_path):
    write_log(tmp_path, 4)
    assert not draw_curves(tmp_path, num_negatives=1024, feature_dim=128)
    assert not (tmp_path / "curves.png").exists()
    write_log(tmp_path, 200)
    assert draw_curves(tmp_path, num_negatives=1024, feature_dim=128)
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()
        assert picture.width > picture.height > 400
