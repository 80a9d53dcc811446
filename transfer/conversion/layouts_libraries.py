"""Layouts of frameworks and libraries, and our own. Data; see transfer/conversion/layouts.py.

Source of the table: peers.md 4.4 and the file named in each entry. [from memory]: read in no repository.
"""

from __future__ import annotations

from transfer.conversion.layout_entry import (
    CLASSIFIER,
    ENCODER,
    FAIR_BGR,
    MODEL,
    MSRA_BGR,
    STATE_DICT,
    VISSL_TRUNK,
    Branch,
    Layout,
)

TRUNK_PLACE = r"^classy_state_dict\.base_model\.model\.trunk/"

OUR_AUTHOR = "__author__=InfoMin Transfer"  # as transfer/conversion/convert.py writes it

OURS = (
    Layout(
        name="infomin-transfer",
        description="this project's pre-training (tools/pretrain.py)",
        source="pretrain/run/checkpoint.py",
        markers=(rf"^model/query\.encoder\.{ENCODER}", r"^model/memory\."),
        branches={"query": Branch("query.encoder.", MODEL), "key": Branch("key.encoder.", MODEL)},
        contract=None,
    ),
    Layout(
        name="infomin-transfer-converted",
        description="this project's converted weights (needs the sidecar beside them)",
        source="transfer/conversion/convert.py",
        markers=(r"^model/stem\.conv1\.(norm\.|weight$)", r"^model/res5\.0\."),
        absent=(r"^model/backbone\.",),
        keys=(OUR_AUTHOR,),
        branches={"converted": Branch("", MODEL)},
        naming="detectron2",
        contract=None,
    ),
)

DETECTRON2 = (
    Layout(
        name="detectron2-converted",
        description="weights that another converter wrote for Detectron2 (MoCo's, PyContrast's, Detectron2's torchvision one)",
        source="detectron2 tools/convert-torchvision-to-d2.py, PyContrast detection/convert_pretrained.py; peers.md 4.1",
        markers=(r"^model/stem\.conv1\.(norm\.|weight$)", r"^model/res5\.0\."),
        absent=(r"^model/backbone\.",),
        absent_keys=(OUR_AUTHOR,),
        branches={"converted": Branch("", MODEL)},
        extra=(r"stem\.(fc|queue|queue_ptr)(\..*)?",),  # junk that those converters carry along
        naming="detectron2",
        contract=None,
    ),
    Layout(
        name="caffe2",
        description="Detectron's caffe2 pickles: MSRA's R-50 and R-101 (BGR, standard deviation 1, stride in the 1x1), FAIR's X-101",
        source="detectron2/checkpoint/c2_model_loading.py, detection_checkpoint.py",
        markers=(r"^/(conv1_w|res_conv1_bn_s)$", r"^/res5_0_branch"),
        branches={"backbone": Branch("")},
        # conv1_b: Detectron and Detectron2 both build a stem without bias and leave it unread.
        extra=(r"(conv1_b|(fc1000|pred)_[wb])", r".*_momentum"),
        naming="caffe2",
        contract=MSRA_BGR,
        by_arch={"resnext101_32x8d": FAIR_BGR, "resnext152_32x8d": FAIR_BGR},
    ),
)

FRAMEWORKS = (
    Layout(
        name="vissl",
        description="VISSL, pre-training",
        source="facebookresearch/vissl extra_scripts/convert_vissl_to_detectron2.py, vissl/utils/checkpoint.py",
        markers=(rf"{TRUNK_PLACE}_feature_blocks\.{ENCODER}",),
        branches={"trunk": Branch("_feature_blocks.", VISSL_TRUNK)},
    ),
    Layout(
        name="vissl-linear",
        description="VISSL, linear evaluation or extracted features: the trunk inside another",
        source="facebookresearch/vissl docs load_models.rst; peers.md 4.4",
        markers=(rf"{TRUNK_PLACE}base_model\._feature_blocks\.{ENCODER}",),
        branches={"trunk": Branch("base_model._feature_blocks.", VISSL_TRUNK)},
    ),
    Layout(
        name="mmselfsup",
        description="MMSelfSup 1.x and mmpretrain, raw",
        source="open-mmlab/mmselfsup mmselfsup/models/algorithms/moco.py, tools/.../extract_backbone_weights.py; peers.md 4.4",
        markers=(rf"^state_dict/backbone\.{ENCODER}", r"^state_dict/(neck|head)\."),
        absent=(r"^state_dict/encoder_q\.", r"^state_dict/projector\."),
        branches={
            "backbone": Branch("backbone.", STATE_DICT),
            "key": Branch("encoder_k.0.", STATE_DICT),  # MoCo; `module` is a wrapper and gone
            "target": Branch("target_net.0.", STATE_DICT),  # BYOL
        },
    ),
    Layout(
        name="openselfsup",
        description="OpenSelfSup and DenseCL, raw",
        source="WXinlong/DenseCL openselfsup/models/densecl.py; peers.md 4.4",
        markers=(rf"^state_dict/backbone\.{ENCODER}", rf"^state_dict/encoder_q\.0\.{ENCODER}"),
        branches={
            "query": Branch("backbone.", STATE_DICT, twin="encoder_q.0."),
            "key": Branch("encoder_k.0.", STATE_DICT),
        },
    ),
    Layout(
        name="mmselfsup-extracted",
        description="MMSelfSup and DenseCL, extracted with extract_backbone_weights.py",
        source="open-mmlab/mmselfsup tools/model_converters/extract_backbone_weights.py; peers.md 4.4",
        markers=(rf"^state_dict/{ENCODER}",),
        keys=("author",),
        absent=(r"^state_dict/(prototypes|projection_head)",),
        branches={"backbone": Branch("", STATE_DICT)},
    ),
    Layout(
        name="solo-learn",
        description="solo-learn (Lightning)",
        source="vturrisi/solo-learn solo/methods/base.py; peers.md 4.4",
        markers=(rf"^state_dict/backbone\.{ENCODER}", r"^state_dict/classifier\."),
        absent=(r"^state_dict/(neck|head|projection_head|online_classifier)\.",),
        branches={
            "backbone": Branch("backbone.", STATE_DICT),
            "momentum": Branch("momentum_backbone.", STATE_DICT),
        },
        extra=CLASSIFIER,
    ),
    Layout(
        name="lightly",
        description="lightly's ImageNet benchmarks and tutorials: the one that they evaluate by default",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50 (dino.py, mocov2.py)",
        markers=(rf"^state_dict/backbone\.{ENCODER}", r"^state_dict/(projection_head|online_classifier)\."),
        branches={
            "backbone": Branch("backbone.", STATE_DICT),
            "query": Branch("query_backbone.", STATE_DICT),
            "student": Branch("student_backbone.", STATE_DICT),
            "momentum": Branch("backbone_momentum.", STATE_DICT),
            "teacher": Branch("teacher_backbone.", STATE_DICT),
        },
        extra=CLASSIFIER,
    ),
    Layout(
        name="lightly-sequential",
        description="lightly's examples: nn.Sequential(*list(resnet.children())[:-1])",
        source="lightly-ai/lightly examples/pytorch_lightning; peers.md 4.4",
        markers=(r"^state_dict/backbone\.[4-7]\.\d+\.(conv|bn)\d", r"^state_dict/backbone\.[01]\."),
        branches={
            "backbone": Branch("backbone.", STATE_DICT),
            "momentum": Branch("backbone_momentum.", STATE_DICT),
            "student": Branch("student_backbone.", STATE_DICT),
            "teacher": Branch("teacher_backbone.", STATE_DICT),
        },
        naming="sequential",
    ),
)

LIBRARIES = (
    Layout(
        name="torchvision",
        description=(
            "torchvision and timm (.pth, .safetensors), and flat files with their names: lightly-train's exports, "
            "MoCo's linear evaluation, DINO's, VICReg's and Barlow Twins' final backbone"
        ),
        source="torchvision models/resnet.py; timm models/resnet.py; lightly-train torchvision_package.py; peers.md 4.4",
        markers=(rf"^/{ENCODER}", r"^/layer4\.\d"),
        absent=(r"^/(prototypes|projection_head)", r"^/_feature_blocks\."),
        branches={"backbone": Branch("")},
        extra=CLASSIFIER,
        companion="timm",
    ),
    Layout(
        name="sequential",
        description="a ResNet's children in an nn.Sequential, flat: 0.weight, 1.bias, 4.0.conv1.weight ...",
        source="lightly-ai/lightly examples; torch.nn.Sequential",
        markers=(r"^/[4-7]\.\d+\.(conv|bn)\d", r"^/[01]\.(weight|bias|running_)"),
        branches={"backbone": Branch("")},
        extra=(r"9\.(weight|bias)",),  # the classifier, where the children were not cut
        naming="sequential",
    ),
    Layout(
        name="huggingface",
        description="Hugging Face transformers' ResNetModel and ResNetForImageClassification",
        source="huggingface/transformers models/resnet/modeling_resnet.py (5.24: names read off the module)",
        markers=(r"^/(resnet\.)?embedder\.embedder\.", r"^/(resnet\.)?encoder\.stages\.3\."),
        branches={"backbone": Branch("")},
        extra=(r"classifier\.1\.(weight|bias)",),
        naming="hugging face",
        companion="huggingface",
    ),
)
