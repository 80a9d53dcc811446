"""What our step is compared with on the same device: a plain supervised step, and a step written as the reference writes its own.

The reference step is written from the description of the published code [specification 1.3 to 1.6]: float32 images in NCHW,
fp16 autocast with a loss scaler, logits against a transposed clone of the whole queue, joined in front by the positive,
cross-entropy, the key network updated parameter by parameter, the loss fetched from the device in every step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.base.contract import InputContract
from pretrain.model.encoder import ResNetEncoder
from pretrain.run.precision import Precision
from pretrain.views.pipeline import normalize

NUM_CLASSES = 1000
FEATURES = 128
Work = Callable[[], object]  # one step


def supervised_step(arch: str, images: Tensor, precision: Precision) -> Work:
    """Cross-entropy on `images` (uint8, B x 3 x S x S) as fast as torch allows: channels last, our precision, fused SGD."""
    torch.manual_seed(0)
    device = precision.device
    encoder = ResNetEncoder(arch)
    network = nn.Sequential(encoder, nn.Linear(encoder.feature_dim, NUM_CLASSES)).to(device)
    if precision.dtype is not None:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, fused=device.type == "cuda"
    )
    labels = torch.arange(len(images), device=device) % NUM_CLASSES
    scaler = precision.scaler()

    def step() -> None:
        with precision.autocast():
            pixels = normalize(images, InputContract(), channels_last=precision.dtype is not None)
            loss = functional.cross_entropy(network(pixels).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


class ReferenceNetwork(nn.Module):
    """Encoder and two-layer head; with `jigsaw` the head of the nine patches."""

    def __init__(self, arch: str, *, jigsaw: bool) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(arch)
        dim = self.encoder.feature_dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, FEATURES))
        if jigsaw:
            self.patch_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, FEATURES))
            self.mix = nn.Sequential(nn.Linear(9 * FEATURES, dim), nn.ReLU(), nn.Linear(dim, FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, FEATURES), of length 1."""
        return functional.normalize(self.head(self.encoder(images)), dim=1)

    def of_patches(self, patches: Tensor) -> Tensor:
        """(9B, 3, P, P), an image's patches together -> (B, FEATURES)."""
        each = self.patch_head(self.encoder(patches))
        return functional.normalize(self.mix(each.view(-1, 9 * FEATURES)), dim=1)


def reference_step(
    arch: str, views: Tensor, patches: Tensor | None, *, queue_size: int, temperature: float, device: torch.device
) -> Work:
    """views: uint8 (B, 2, 3, S, S); patches: uint8 (B, 9, 3, P, P), or None: MoCo v2. Half precision on a GPU alone."""
    torch.manual_seed(0)
    query, key = (ReferenceNetwork(arch, jigsaw=patches is not None).to(device) for _ in range(2))
    key.load_state_dict(query.state_dict())
    for parameter in key.parameters():
        parameter.requires_grad = False
    memory = functional.normalize(torch.randn(queue_size, FEATURES, device=device), dim=1)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, foreach=False)
    half = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    first, second = (normalize(views[:, i], InputContract()) for i in (0, 1))  # its loader ships floats
    pieces = None if patches is None else normalize(patches.flatten(0, 1), InputContract())
    target = torch.zeros(len(views), dtype=torch.long, device=device)
    place = 0

    def contrast(q: Tensor, k: Tensor) -> Tensor:
        queue = memory.clone().detach()
        positive = torch.bmm(q.view(len(q), 1, -1), k.view(len(k), -1, 1)).view(len(q), 1)
        negative = torch.mm(q, queue.transpose(1, 0).to(q.dtype))
        logits = torch.cat((positive, negative), dim=1) / temperature
        return functional.cross_entropy(logits.contiguous(), target)

    def step() -> float:
        nonlocal place
        with torch.autocast(device.type, dtype=torch.float16, enabled=half):
            q = query(first)
            with torch.no_grad():
                order = torch.randperm(len(second), device=device)
                k = key(second[order])[torch.argsort(order)].detach()
            loss = contrast(q, k)
            if pieces is not None:
                loss = 0.5 * loss + 0.5 * contrast(query.of_patches(pieces), k)
        optimizer.zero_grad(set_to_none=False)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        for slow, fast in zip(key.parameters(), query.parameters(), strict=True):
            slow.data.mul_(0.999).add_(fast.data, alpha=1 - 0.999)
        rows = (torch.arange(len(k), device=device) + place) % queue_size
        memory.index_copy_(0, rows, k.to(memory.dtype))
        place = (place + len(k)) % queue_size
        return loss.item()

    return step
