"""A trained detector as one file that runs without Detectron2: TorchScript (by tracing) or ONNX.

In: a `TrainedDetector` on the CPU, some images. Out: FILE, and its sidecar FILE.json, or neither. The graph begins with the
resized image (float32, 0 to 255, 3 x H x W, any size, INPUT.FORMAT) and ends with boxes in pixels of it; mean, std, padding and NMS are
inside, resizing and the pasting of masks outside. Before FILE gets its name it is loaded again and run on the images, in sizes
other than the traced one and on a blank image, and compared with the detector (export_check.py).

What Detectron2 allows: TorchScript for GeneralizedRCNN (C4, FPN, cascade, masks, keypoints) and RetinaNet; ONNX for the same without
keypoints, whose decoding is a script over advanced indices that ONNX does not have. torch's newer exporter (torch.onnx.export with
dynamo=True) does not get through Detectron2 0.7, whose number of proposals is data; the ONNX files are of the older, tracing one.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import detectron2
import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from pretrain.base.atomic import atomic_file, write_json
from pretrain.base.errors import ConfigError
from pretrain.base.image_files import read_image
from pretrain.base.signals import ending_on_sigterm
from transfer.conversion.weight_files import file_sha256
from transfer.data.image_list import ImageList
from transfer.detect.examples import SharedReaderMapper
from transfer.detect.export_check import Agreement, Runner, compare, spread
from transfer.detect.trained import TrainedDetector

Format = Literal["torchscript", "onnx"]
FORMATS: tuple[Format, ...] = ("torchscript", "onnx")
EXPORTABLE = ("GeneralizedRCNN", "RetinaNet")
INPUT = "image"
# Field of Detectron2's Instances -> output of the file. In this order.
FIELDS = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_classes": "classes",
    "pred_masks": "masks",
    "pred_keypoints": "keypoints",
}
OPSET = 17  # has what tracing needs (RoiAlign with half pixels is of 16); onnxruntime 1.14 and later run it
SIDECAR_FORMAT, SIDECAR_VERSION = "infomin-transfer/exported-detector", 1
METADATA_KEY = "detector"  # of the sidecar's content inside the file, without sha256 and agreement
DEBUG_SUFFIX = ".debug_pkl"  # TorchScript's record of source lines, with the paths of the exporting machine
NUM_IMAGES = 6
MEANINGS = {
    "boxes": "float32 (N, 4): x1, y1, x2, y2 in pixels of the input; times original size / input size for the original image",
    "scores": "float32 (N,), in 0..1",
    "classes": "int64 (N,), positions in class_names",
    "masks": "float32 (N, 1, M, M) in 0..1: the mask inside its box, M pixels wide and high; resample it to the box (bilinear, corners "
    "not aligned) and compare with 0.5",
    "keypoints": "float32 (N, K, 3): x, y in pixels of the input, score",
}


@dataclass(frozen=True)
class ExportOptions:
    """format: of `output`. num_images: of `images` that are compared, evenly spread over the list."""

    format: Format
    output: Path
    images: ImageList
    num_images: int = NUM_IMAGES


def check_exportable(detector: TrainedDetector, format: Format) -> None:
    """Raises ConfigError with what works, for a detector that cannot be exported to `format`."""
    config = detector.config
    kind = config.MODEL.META_ARCHITECTURE
    if kind not in EXPORTABLE:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {kind} cannot be exported: of Detectron2's detectors {' and '.join(EXPORTABLE)} can be traced"
        )
    if any(config.MODEL.RESNETS.DEFORM_ON_PER_STAGE):
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: deformable convolutions are operators of Detectron2's own, which neither TorchScript "
            "files nor ONNX can hold"
        )
    if format == "onnx" and config.MODEL.KEYPOINT_ON:
        raise ConfigError(
            "MODEL.KEYPOINT_ON True: the decoding of keypoints cannot be written as ONNX; pass --format torchscript, or --opts "
            "MODEL.KEYPOINT_ON False for boxes alone"
        )
    if config.MODEL.DEVICE != "cpu":
        raise ConfigError(
            f"MODEL.DEVICE {config.MODEL.DEVICE}: tracing writes the device into the file; pass --opts MODEL.DEVICE cpu"
        )


class ExportedNetwork(nn.Module):
    """The detector from a resized image to a tuple of tensors, by Detectron2's TracingAdapter."""

    def __init__(self, detector: TrainedDetector, image: Tensor) -> None:
        super().__init__()
        self.adapter = TracingAdapter(detector.model, [{"image": image}], _raw_instances)
        with torch.no_grad():
            self.adapter(image)  # learns the order of the outputs
        fields = self.adapter.outputs_schema.schemas[0].schemas[0].keys
        self.outputs = tuple(FIELDS[name] for name in FIELDS if name in fields)
        self._places = tuple(fields.index(name) for name in FIELDS if name in fields)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image: float32 (3, H, W). Returns the tensors of `outputs`."""
        values = self.adapter(image)
        return tuple(values[place] for place in self._places)


def _raw_instances(model: Any, inputs: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Instances in pixels of the network's input, masks inside their boxes."""
    if hasattr(model, "roi_heads"):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]
    found: list[dict[str, Any]] = model(inputs)  # a dense detector's boxes are scaled by a factor of 1
    return found


def export_detector(detector: TrainedDetector, options: ExportOptions) -> Agreement:
    """Write options.output and its sidecar, once the file has been loaded again and agrees with the detector.

    Raises ConfigError for a detector or a path that cannot be, CheckpointError where the file does not agree: then none is left.
    """
    check_exportable(detector, options.format)
    check_output(options)
    images = check_images(detector, options)
    network = ExportedNetwork(detector, images[0]).eval()
    content = _content(detector, options.format, network.outputs)
    agreement: list[Agreement] = []

    def check(path: Path) -> None:
        agreement.append(compare(network, LOADERS[options.format](path), images, min_score=detector.min_score))

    with ending_on_sigterm():
        with atomic_file(options.output, check=check) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what it fixes is compared below
            WRITERS[options.format](file, network, images[0], json.dumps(content))
        try:
            values = {**content, "file_sha256": file_sha256(options.output), "agreement": agreement[0].to_dict()}
            write_json(sidecar_of(options.output), values)
        except BaseException:
            options.output.unlink()
            raise
    return agreement[0]


def sidecar_of(output: Path) -> Path:
    """mine.onnx.json: mine.pt may lie beside it."""
    return output.with_name(f"{output.name}.json")


def check_output(options: ExportOptions) -> None:
    """Raises ConfigError for a suffix that contradicts the format, and for files that are there already."""
    suffixes = {"onnx": (".onnx",), "torchscript": (".pt", ".ts", ".torchscript")}[options.format]
    if options.output.suffix not in suffixes:
        raise ConfigError(
            f"--output {options.output}: of --format {options.format} expected a name in {' or '.join(suffixes)}"
        )
    for path in (options.output, sidecar_of(options.output)):
        if path.exists():
            raise ConfigError(f"--output {options.output}: {path} exists; name another file")
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {options.output} cannot be written: {error.strerror or error}") from None


def check_images(detector: TrainedDetector, options: ExportOptions) -> list[Tensor]:
    """What the file is compared on, the first one traced: each image as an evaluation resizes it, the same at three quarters of that,
    and a blank one."""
    mapper = SharedReaderMapper(detector.config, is_train=False)
    names = spread(options.images.names, options.num_images)
    tensors = [mapper.network_input(read_image(options.images.root / name))[0].float() for name in names]
    smaller = [
        nn.functional.interpolate(image[None], scale_factor=0.75, mode="bilinear", antialias=True)[0]
        for image in tensors
    ]
    return [*tensors, *smaller, torch.full_like(tensors[0], 127.0)]


def _content(detector: TrainedDetector, format: Format, outputs: Sequence[str]) -> dict[str, Any]:
    """What a program needs that runs the file."""
    config = detector.config
    return {
        "format": SIDECAR_FORMAT,
        "version": SIDECAR_VERSION,
        "file_format": format,
        "opset": OPSET if format == "onnx" else None,
        "detector": detector.describe(),
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": [3, "height", "width"],
            "range": [0, 255],
            "channel_order": config.INPUT.FORMAT,
            "normalisation": "inside the graph",
            "mean": list(config.MODEL.PIXEL_MEAN),
            "std": list(config.MODEL.PIXEL_STD),
            "resize": {
                "where": "outside the graph: bilinear with antialiasing (Pillow), upright by EXIF, aspect kept",
                "shortest_side": config.INPUT.MIN_SIZE_TEST,
                "longest_side_at_most": config.INPUT.MAX_SIZE_TEST,
            },
        },
        "outputs": [{"name": name, "meaning": MEANINGS[name]} for name in outputs],
        "class_names": list(detector.class_names),
        "category_ids": list(detector.category_ids),
        "min_score": detector.min_score,
        "max_detections": config.TEST.DETECTIONS_PER_IMAGE,
        "versions": {"torch": torch.__version__, "detectron2": detectron2.__version__},
    }


def _write_torchscript(file: Any, network: ExportedNetwork, image: Tensor, content: str) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(network, (image,), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={METADATA_KEY: content.encode()})
    with ZipFile(buffer) as whole, ZipFile(file, "w") as kept:  # both stored, not compressed
        for entry in whole.infolist():
            if not entry.filename.endswith(DEBUG_SUFFIX):
                kept.writestr(entry.filename, whole.read(entry))


def _write_onnx(file: Any, network: ExportedNetwork, image: Tensor, content: str) -> None:
    import onnx

    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (image,),
        buffer,  # type: ignore[arg-type]  # the exporter that traces writes into files, too
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(network.outputs),
        dynamic_axes={INPUT: {1: "height", 2: "width"}, **{name: {0: "detections"} for name in network.outputs}},
    )
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        node.doc_string = ""  # source lines of the exporting machine
        del node.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, content
    file.write(model.SerializeToString())


def _load_torchscript(path: Path) -> Runner:
    network = torch.jit.load(str(path), map_location="cpu")

    def run(image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(network(image))

    return run


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: tuple(torch.from_numpy(value) for value in session.run(None, {INPUT: image.numpy()}))


WRITERS = {"torchscript": _write_torchscript, "onnx": _write_onnx}
LOADERS = {"torchscript": _load_torchscript, "onnx": _load_onnx}
