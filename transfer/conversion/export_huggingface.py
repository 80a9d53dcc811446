"""A folder for Hugging Face's `ResNetModel.from_pretrained`: written, and loaded by it.

In: a `Backbone`. Out: OUTPUT/ with config.json, model.safetensors and preprocessor_config.json (mean, std, size); a
`LoadedNetwork` of transformers'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.atomic import atomic_file
from pretrain.base.errors import CheckpointError
from transfer.conversion.loaded_network import COUNTER, Preprocessing, TorchNetwork
from transfer.conversion.names import HUGGING_FACE
from transfer.conversion.sources import Backbone

WEIGHTS_FILE = "model.safetensors"

IMAGE_SIZE, CROP_FRACTION = 224, 0.875  # the evaluation that ImageNet's ResNets are quoted with
RESCALE = 1 / 255


def configuration(backbone: Backbone) -> Any:
    """`ResNetConfig` of the encoder. The widths are read off the tensors."""
    from transformers import ResNetConfig

    spec = ARCHITECTURES[backbone.arch]
    last = "conv3" if spec.bottleneck else "conv2"
    return ResNetConfig(
        embedding_size=backbone.tensors["conv1.weight"].shape[0],
        hidden_sizes=[backbone.tensors[f"layer{i}.0.{last}.weight"].shape[0] for i in range(1, 5)],
        depths=list(spec.layers),
        layer_type="bottleneck" if spec.bottleneck else "basic",
        downsample_in_bottleneck=backbone.contract.stride_in_1x1,
        architectures=["ResNetModel"],
        dtype="float32",
    )


def write(path: Path, backbone: Backbone) -> None:
    """The three files into the folder `path`, which is made."""
    from safetensors.torch import save
    from transformers import ConvNextImageProcessor  # the one that transformers uses for its own ResNets

    path.mkdir()
    tensors = HUGGING_FACE.renamed(backbone.tensors)
    norms = [name.removesuffix("running_var") for name in tensors if name.endswith("running_var")]
    counters = {f"{norm}{COUNTER}": torch.zeros((), dtype=torch.long) for norm in norms}  # else reported as missing
    with atomic_file(path / WEIGHTS_FILE) as file:
        file.write(save({**tensors, **counters}, metadata={"format": "pt"}))
    processor = ConvNextImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_pct=CROP_FRACTION,
        rescale_factor=RESCALE,
        image_mean=list(backbone.contract.mean),
        image_std=list(backbone.contract.std),
    )
    configuration(backbone).save_pretrained(path)
    processor.save_pretrained(path)


def load(path: Path, backbone: Backbone) -> TorchNetwork:
    """`ResNetModel.from_pretrained(path)`; mean and std from its image processor. Raises CheckpointError for any stray key."""
    from transformers import AutoImageProcessor, ResNetModel

    with _without_progress_bar():
        network, messages = ResNetModel.from_pretrained(path, local_files_only=True, output_loading_info=True)
    stray = {kind: sorted(map(str, names)) for kind, names in messages.items() if names}
    if stray:
        raise CheckpointError(f"{backbone.path}: Hugging Face's ResNetModel did not load every tensor: {stray}")
    processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    scale = 1 / processor.rescale_factor
    mean, std = (tuple(scale * v for v in values) for values in (processor.image_mean, processor.image_std))
    return TorchNetwork(network.eval(), Preprocessing("RGB", mean, std), _stages, HUGGING_FACE)


def _stages(network: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    output = network(pixels, output_hidden_states=True)
    stages = dict(zip(("stem", "res2", "res3", "res4", "res5"), output.hidden_states, strict=True))
    return {**stages, "pooled": output.pooler_output.flatten(1)}


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
