"""The region head of the C4 detectors: res5 followed by one more norm.

In: a Detectron2 configuration with `MODEL.ROI_HEADS.NAME: Res5ROIHeadsExtraNorm`. Out: the head, found in ROI_HEADS_REGISTRY
once this module is imported. Source: docs/specification.md 2.3 (MoCo detection).
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads

RES5_WIDTH = 8  # res5 has 8 times the channels of res2: 2048 for ResNet-50


class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5ROIHeads whose res5 ends in one norm layer of kind MODEL.RESNETS.NORM, as submodule `res5.norm`.

    Pre-trained features are not normalised at their end as a supervised classifier's are; the norm makes their scale a
    matter of fine-tuning. It is in no weight file: it starts as identity (weight 1, bias 0).
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        """cfg: the whole configuration; input_shape: the backbone's outputs by name."""
        # Appended here and not in `_build_res5_block`: overriding that as an instance method lives on a compatibility branch of
        # Detectron2 that it says may change.
        super().__init__(cfg, input_shape)
        channels = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * RES5_WIDTH
        self.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))


if Res5ROIHeadsExtraNorm.__name__ not in ROI_HEADS_REGISTRY:  # a registry raises on a second registration (reload)
    ROI_HEADS_REGISTRY.register(Res5ROIHeadsExtraNorm)
