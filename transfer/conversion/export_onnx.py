"""An ONNX graph of the backbone: exported, and run by onnxruntime.

In: a `Backbone`. Out: OUTPUT.onnx, one file: input "images" (prepared pixels, any batch and size), outputs "res2" to "res5" and
"pooled", every tensor an initializer under torchvision's name and bit-equal (nothing folded or fused), the input contract in
the metadata; a `LoadedNetwork` that is an onnxruntime session.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.base.atomic import atomic_file
from pretrain.base.contract import InputContract
from pretrain.model.encoder import ResNetEncoder
from transfer.conversion.loaded_network import STRIDED_BLOCKS, Preprocessing
from transfer.conversion.parity import source_network
from transfer.conversion.sources import Backbone

INPUT = "images"
OUTPUTS = ("res2", "res3", "res4", "res5", "pooled")
PREFIX = "encoder."  # of the exported wrapper; taken off the names
METADATA_KEY = "input_contract"


class _Outputs(nn.Module):
    """The encoder with all of `OUTPUTS` as its result."""

    def __init__(self, encoder: ResNetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        stages = self.encoder.stages(images)
        pooled = torch.flatten(self.encoder.avgpool(stages["res5"]), 1)
        return (*(stages[name] for name in OUTPUTS[:-1]), pooled)


def write(path: Path, backbone: Backbone) -> None:
    """Export with torch's exporter, without its optimiser: it would fold BatchNorm into convolutions."""
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        _Outputs(source_network(backbone)).eval(),
        (torch.zeros(2, 3, 96, 128),),  # no dimension may be 1, or it is taken for a constant
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=({0: free, 2: free, 3: free},),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
    )
    assert program is not None
    model = program.model_proto
    _tidy(model, backbone)
    with atomic_file(path) as file:
        file.write(model.SerializeToString())


def _tidy(model: Any, backbone: Backbone) -> None:
    """torchvision's names, named dimensions, the contract; no traces of the exporting machine (source paths)."""
    for initializer in model.graph.initializer:
        initializer.name = initializer.name.removeprefix(PREFIX)
    for node in model.graph.node:
        node.input[:] = [name.removeprefix(PREFIX) for name in node.input]
        del node.metadata_props[:]
    del model.graph.value_info[:]  # shapes of what is between, under the exporter's own names
    del model.graph.metadata_props[:]
    _set_dimensions(model.graph.input[0], {0: "batch", 2: "height", 3: "width"})
    for output in model.graph.output:
        _set_dimensions(output, {0: "batch", 2: f"height_{output.name}", 3: f"width_{output.name}"})
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(backbone.contract.to_dict())


def _set_dimensions(value: Any, names: Mapping[int, str]) -> None:
    for index, dimension in enumerate(value.type.tensor_type.shape.dim):
        if index in names:
            dimension.dim_param = names[index]


@dataclass(frozen=True)
class OnnxNetwork:
    """See `LoadedNetwork`. model: onnx's ModelProto."""

    model: Any
    preprocessing: Preprocessing

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(self.model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def tensors(self) -> dict[str, Tensor]:
        """See `LoadedNetwork`."""
        from onnx import numpy_helper

        # numpy_helper's arrays are views of read-only bytes
        return {
            entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in self.model.graph.initializer
        }

    def stages(self, pixels: Tensor) -> dict[str, Tensor]:
        """See `LoadedNetwork`."""
        arrays = self._session.run(list(OUTPUTS), {INPUT: pixels.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(OUTPUTS, arrays, strict=True)}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> OnnxNetwork:
        """See `LoadedNetwork`."""
        from onnx import numpy_helper

        model = copy.deepcopy(self.model)
        for entry in model.graph.initializer:
            if entry.name in tensors:
                entry.CopyFrom(numpy_helper.from_array(tensors[entry.name].numpy(), entry.name))
        return OnnxNetwork(model, self.preprocessing)

    def with_stride_moved(self) -> OnnxNetwork:
        """See `LoadedNetwork`."""
        model = copy.deepcopy(self.model)
        strides = {
            node.input[1]: attribute.ints
            for node in model.graph.node
            if node.op_type == "Conv"
            for attribute in node.attribute
            if attribute.name == "strides"
        }
        for block in STRIDED_BLOCKS:
            first, second = (strides[f"{block}.conv{i}.weight"] for i in (1, 2))
            first[:], second[:] = list(second), list(first)
        return OnnxNetwork(model, self.preprocessing)


def load(path: Path, backbone: Backbone) -> OnnxNetwork:
    """The file as onnx reads it, checked against the standard, with the contract of its own metadata."""
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = InputContract.from_dict(json.loads(metadata[METADATA_KEY]))
    return OnnxNetwork(model, Preprocessing.of(contract))
