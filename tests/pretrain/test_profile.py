"""--profile: a part of a step that takes long is the one that the table shows, and nothing is left behind."""

from __future__ import annotations

import re
import time

import pytest
import torch

from pretrain.data.loader import ViewDataset
from pretrain.model.contrast import Contrast
from pretrain.profile import PARTS, Timer, profile
from pretrain.run.ranks import Ranks

PAUSE = 0.3  # seconds, far more than any part of a tiny step


def shown(table):
    """Title -> milliseconds."""
    return {match[1]: float(match[2]) for match in re.finditer(r"^(\S[^\d\n]*?) +([\d.]+) ms", table, re.MULTILINE)}


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [
        pytest.param(ViewDataset, "__getitem__", "data", marks=pytest.mark.slow),
        pytest.param(Contrast, "step", "forward", marks=pytest.mark.slow),
        pytest.param(torch.Tensor, "backward", "backward", marks=pytest.mark.slow),
        pytest.param(torch.optim.SGD, "step", "optimiser", marks=pytest.mark.slow),
        pytest.param(Contrast, "after_step", "memory", marks=pytest.mark.slow),
    ],
)
def test_what_takes_long_is_what_the_table_shows(tiny_config, monkeypatch, tmp_path, owner, name, part):
    monkeypatch.chdir(tmp_path)
    own = getattr(owner, name)

    def slow(*args, **rest):
        time.sleep(PAUSE)
        return own(*args, **rest)

    monkeypatch.setattr(owner, name, slow)
    times = shown(profile(tiny_config(encoder={"arch": "resnet18_half"}), ranks=Ranks(), steps=2))
    parts = {title: times[title] for title in PARTS.values()}
    assert max(parts, key=parts.get) == PARTS[part] and parts[PARTS[part]] >= 1000 * PAUSE, times
    assert sum(parts.values()) == pytest.approx(times["step"], abs=0.1)
    assert list(tmp_path.iterdir()) == []


def test_steps_before_the_counted_ones_do_not_count():
    timer = Timer(torch.device("cpu"))
    for taken in (5.0, 1.0, 3.0):
        timer.spans.append(("forward", timer.step, 0.0, taken))
        timer.step += 1
    assert timer.milliseconds(2) == {"forward": 2000.0}
