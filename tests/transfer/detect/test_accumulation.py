"""A step accumulated over parts of a batch is the step of the whole batch, and of as many processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from tests.cases import each
from transfer.detect.config import load_detector_config
from transfer.detect.trainer import AccumulatingTrainer, DetectionTrainer

DEMO = next((Path(__file__).parents[3] / "transfer" / "configs" / "demo").glob("R_18_FPN*.yaml"))
Batch = list[dict[str, Any]]


class Regression(nn.Module):
    """A model that takes what a detector takes, with a loss that is a mean over images."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 8), norm or nn.Identity(), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        found = self.layers(torch.stack([entry["image"] for entry in batch])).squeeze(1)
        wanted = torch.stack([entry["target"] for entry in batch])
        return {"square": (found - wanted).square().mean(), "size": 0.1 * found.abs().mean()}


def batches(count: int, size: int) -> list[Batch]:
    numbers = torch.Generator().manual_seed(1)
    return [
        [
            {"image": torch.randn(5, generator=numbers), "target": torch.randn((), generator=numbers)}
            for _ in range(size)
        ]
        for _ in range(count)
    ]


def trained(model: nn.Module, num_parts: int, steps: int = 5) -> tuple[list[Tensor], list[float]]:
    """Parameters and total losses after some steps with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    arguments = (model.train(), batches(steps, 8), optimizer)
    trainer = (
        SimpleTrainer(*arguments)
        if num_parts == 0
        else AccumulatingTrainer(*arguments, num_parts=num_parts, half_precision=False)
    )
    losses = []
    with EventStorage() as storage:
        for trainer.iter in range(steps):
            storage.iter = trainer.iter
            trainer.run_step()
            losses.append(storage.latest()["total_loss"][0])
    return [parameter.detach().clone() for parameter in model.parameters()], losses


@each("num_parts", [1, 2, 4, 8])
def test_parts_make_the_steps_and_losses_of_the_whole_batch(num_parts: int) -> None:
    (whole, losses), (parts, found) = trained(Regression(), 0), trained(Regression(), num_parts)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, parts, strict=True))
    assert found == pytest.approx(losses, rel=1e-5)
    assert losses[0] != pytest.approx(losses[-1], rel=0.05)  # something was learnt


def test_batchnorm_sees_one_part_at_a_time() -> None:
    """What accumulation cannot give back, and why the linear rule is the default."""
    whole, _ = trained(Regression(nn.BatchNorm1d(8)), 0)
    parts, _ = trained(Regression(nn.BatchNorm1d(8)), 4)
    assert not torch.allclose(whole[0], parts[0], atol=1e-3)


def examples(count: int) -> Batch:
    numbers = torch.Generator().manual_seed(2)
    found = []
    for _ in range(count):
        corner = torch.rand(3, 2, generator=numbers) * 60
        boxes = torch.cat([corner, corner + 20 + torch.rand(3, 2, generator=numbers) * 40], dim=1)
        objects = Instances((128, 128), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 1, 0]))
        image = torch.randint(0, 255, (3, 128, 128), generator=numbers, dtype=torch.uint8)
        found.append({"image": image, "instances": objects, "height": 128, "width": 128})
    return found


@pytest.mark.slow
def test_a_detectors_gradient_is_the_mean_over_processes_of_one_part_each() -> None:
    words = ("MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.MASK_ON", "False", "MODEL.DEVICE", "cpu")
    config = load_detector_config(DEMO, words)
    torch.manual_seed(0)
    model = DetectionTrainer.build_model(config).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    data = examples(4)

    with EventStorage():
        torch.manual_seed(7)
        separate: list[list[Tensor]] = []
        for part in (data[:2], data[2:]):
            model.zero_grad()
            sum(model(part).values()).backward()
            separate.append([p.grad.clone() for p in model.parameters()])
        model.load_state_dict(start)
        torch.manual_seed(7)  # proposals are sampled
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        trainer = AccumulatingTrainer(model, [data], optimizer, num_parts=2, half_precision=False)
        trainer.iter = 0
        trainer.run_step()
    for first, second, parameter in zip(*separate, model.parameters(), strict=True):
        assert torch.allclose((first + second) / 2, parameter.grad, rtol=1e-4, atol=1e-6)
