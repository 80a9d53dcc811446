"""What ends a run: read at once or one step later, by every rank alike, and before anything is saved."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import UserError
from pretrain.base.signals import StopFlag
from pretrain.run.ranks import Ranks
from pretrain.run.watch import Watch, check_loss_scale
from tests.cases import each

FINE, NAN = torch.tensor(1.0), torch.tensor(float("nan"))


def watch_of(*, late, stop=None):
    return Watch(stop or StopFlag(), Ranks(), torch.device("cpu"), late=late)


def explain(what):
    return f"the {what} is not finite"


@each(("loss", "norm", "what"), [(NAN, FINE, "loss"), (FINE, NAN, "gradient"), (NAN, None, "loss")])
def test_on_the_cpu_the_step_itself_raises(loss, norm, what):
    with pytest.raises(UserError, match=f"the {what} is not finite"):
        watch_of(late=False).ask(loss, norm, explain=explain)
    assert watch_of(late=False).ask(FINE, FINE, explain=explain)  # control


@pytest.mark.parametrize("before_saving", [True, False])
def test_on_a_gpu_the_next_step_raises_or_settling_before_it(before_saving):
    watch = watch_of(late=True)
    assert watch.ask(FINE, FINE, explain=explain)
    sound = watch.ask(FINE, NAN, explain=explain)  # nothing is raised, and the step knows on the device not to remember
    assert not sound
    with pytest.raises(UserError, match="gradient"):
        watch.settle() if before_saving else watch.ask(FINE, FINE, explain=explain)
    watch.settle()  # reported once


@pytest.mark.parametrize("late", [False, True])
def test_a_stop_signal_is_seen_once_the_flags_are_read(late):
    stop = StopFlag()
    watch = watch_of(late=late, stop=stop)
    watch.ask(FINE, FINE, explain=explain)
    stop.is_set = True
    watch.ask(FINE, FINE, explain=explain)
    assert watch.stopping is not late
    watch.settle()
    assert watch.stopping


def test_fp16_whose_gradients_stay_infinite_is_ended_and_a_scale_that_still_falls_is_not():
    model = torch.nn.Linear(2, 1)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step in range(40):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, float("inf"))
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        scaler.update()
        if step < 25:
            check_loss_scale(scaler, step)
    with pytest.raises(UserError, match="the loss scale has fallen to"):
        check_loss_scale(scaler, 40)
    check_loss_scale(torch.amp.GradScaler("cpu", enabled=False), 40)
