"""A detector of random weights that finds something, as a run of tools/train_net.py leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from transfer.detect.config import load_detector_config
from transfer.detect.config_files import resolve_config_path
from transfer.detect.trainer import DetectionTrainer

NAMES = ["cup", "leaf", "bolt"]
SMALL = (
    *("MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "100", "MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.RETINANET.NUM_CLASSES", "3", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.RPN.POST_NMS_TOPK_TEST", "12", "TEST.DETECTIONS_PER_IMAGE", "6"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "MODEL.RETINANET.NUM_CONVS", "1"),
    # Detectron2's ResNet-18 has one width; this ResNet-50 is 16 times as narrow.
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
)


def write_run(folder: Path, *words: str, family: str = "demo/R_18_FPN.yaml", names: list[str] | None = NAMES) -> Path:
    """config.yaml and model_final.pth. names: in the checkpoint; None: none. Running statistics are those of noise."""
    config = load_detector_config(resolve_config_path(family), (*SMALL, "OUTPUT_DIR", str(folder), *words))
    torch.manual_seed(0)
    model = DetectionTrainer.build_model(config)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of what is seen
    for value in model.parameters():  # heads start near zero, where all scores are one
        if value.ndim > 1 and value.std() < 0.02:
            nn.init.normal_(value, std=0.05)
    model.eval()
    model.backbone.train()
    with torch.no_grad():
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randint(0, 256, (3, 64, 64), generator=generator).float()
            model.backbone(model.preprocess_image([{"image": noise}]).tensor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.dump())
    content = {"model": model.state_dict(), "iteration": 1, **({"class_names": names} if names else {})}
    torch.save(content, folder / "model_final.pth")
    return folder


def write_photo(path: Path, seed: int, size: tuple[int, int] = (96, 72), **options) -> Path:
    """Noise with large structures. options: of Pillow's save."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = rng.integers(-20, 20, (size[1], size[0], 3))
    pixels = np.clip(np.asarray(coarse).astype(int) + fine, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
