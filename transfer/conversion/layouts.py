"""The layouts of checkpoints that can be converted: one entry each, recognised by content.

This is data; transfer/conversion/sources.py reads it. To add a layout: one `Layout` in the table, one builder in
tests/transfer/conversion/checkpoints.py; the tests there run over the whole table.
Source of each entry: [specification 6.2] and the file that it names; [specification 1.5]. [from memory]: read in no repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pretrain.base.contract import InputContract

Path = tuple[str, ...]  # keys from the top of the file down to a dictionary of tensors


@dataclass(frozen=True)
class Branch:
    """One copy of the encoder in a file.

    prefix: what stands before each name.
    container: where its tensors are.
    twin: a prefix in the same container under which the file holds the same encoder once more; both must be equal.
    state: a second container whose tensors belong to the branch (haiku keeps the statistics apart).
    """

    prefix: str
    container: Path = ()
    twin: str | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    Patterns are compared with names without wrappers (module., _orig_mod., ...). A layout with one container is also found
    where its tensors are at the top of the file.

    source: where the layout was read.
    markers: patterns over "container/key" (containers joined by dots), each of which must match something.
    branches: by name, the default first.
    absent: patterns of which none may match.
    keys, absent_keys: keys at the top of the file, tensors or not; "key=text" asks for that text.
    extra: what else may stand under a branch's prefix (heads, classifiers).
    naming: how the backbone's tensors are called (transfer/conversion/names.py).
    contract: how the encoder wants its input, None when the file says it.
    by_arch: the same where it depends on the architecture.
    companion: whose JSON files beside the weights say it better.
    note: what a user must know.
    refused: why no detector can use it, whatever it holds.
    asked_only: found with --source alone, since its content is that of another layout.
    """

    name: str
    description: str
    source: str
    markers: tuple[str, ...]
    branches: dict[str, Branch]
    absent: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    absent_keys: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    naming: str = "torchvision"
    contract: InputContract | None = field(default_factory=InputContract)
    by_arch: Mapping[str, InputContract] = field(default_factory=dict)
    companion: str | None = None
    note: str | None = None
    refused: str | None = None
    asked_only: bool = False

    @property
    def container(self) -> Path | None:
        """The one container of all branches, None when there are several."""
        places = {branch.container for branch in self.branches.values()} | {
            branch.state for branch in self.branches.values() if branch.state is not None
        }
        return places.pop() if len(places) == 1 else None


STATE_DICT: Path = ("state_dict",)
MODEL: Path = ("model",)
VISSL_TRUNK: Path = ("classy_state_dict", "base_model", "model", "trunk")
# Any tensor of a ResNet, so that a damaged checkpoint is still known for what it is and the missing tensor gets named.
OWN_LAYOUT = "infomin-transfer"
TOWERS_LAYOUT = "infomin-transfer-towers"
DETECTOR_LAYOUT = "detectron2-detector"
DETECTRON2_LAYOUTS = ("detectron2-converted", "caffe2")  # of backbones that Detectron2 reads as they are
ENCODER = r"(conv1\.|bn1\.|layer[1-4]\.\d)"
CLASSIFIER = (r"fc\.(weight|bias)",)
MLP_HEAD = (
    r"fc\.\d+\.(weight|bias|running_mean|running_var)",
)  # MoCo v2's, MoCo v3's and SimSiam's: fc.0, fc.1 ... fc.7

IMAGENET_RGB = InputContract()
ZERO_TO_ONE = InputContract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# Detectron2's default PIXEL_MEAN for the MSRA ResNets, in BGR; a standard deviation of 1 of 255, and the stride in the 1x1.
MSRA_BGR = InputContract(
    channel_order="BGR",
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    stride_in_1x1=True,
)
# FAIR's ResNeXts (detectron2 configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml): BGR with a deviation, v1.5 strides.
FAIR_BGR = replace(MSRA_BGR, std=(57.375 / 255, 57.12 / 255, 58.395 / 255), stride_in_1x1=False)
# FAIR's X-152-IN5k: no deviation (checkpoint/catalog.py; configs/Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv.yaml sets none).
FAIR_IN5K_BGR = replace(MSRA_BGR, stride_in_1x1=False)

TRUNK_PLACE = r"^classy_state_dict\.base_model\.model\.trunk/"
AUTHOR = "InfoMin Transfer"  # of converted weights (transfer/conversion/export_detectron2.py)
OUR_AUTHOR = f"__author__={AUTHOR}"


LAYOUTS: tuple[Layout, ...] = (
    # This project's own
    Layout(
        name=OWN_LAYOUT,
        description="this project's pre-training (tools/pretrain.py)",
        source="pretrain/run/checkpoint.py",
        markers=(rf"^model/query\.encoder\.{ENCODER}", r"^model/(query\.head|memory)\."),
        branches={"query": Branch("query.encoder.", MODEL), "key": Branch("key.encoder.", MODEL)},
        contract=None,
    ),
    Layout(
        name=TOWERS_LAYOUT,
        description="this project's pre-training with a tower for each kind of channels (--method cmc, cmc_v2)",
        source="pretrain/run/checkpoint.py",
        markers=(rf"^model/query\.(Y|DbDr)\.encoder\.{ENCODER}",),
        branches={"query": Branch("query.", MODEL), "key": Branch("key.", MODEL)},
        contract=None,
        refused=(
            "it holds two encoders, one of 1 channel (Y, luminance) and one of 2 (DbDr, chrominance), and a detector has one "
            "encoder of the 3 channels of an image. Read both out with `python tools/linear_eval.py --weights` and this file, or "
            "pre-train a method of one RGB tower for the detector, for example --method moco_v2"
        ),
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
    # The methods' own repositories: with a key encoder or a memory
    Layout(
        name="moco",
        description="MoCo v1 and v2, PCL",
        source="facebookresearch/moco main_moco.py, main_lincls.py; salesforce/PCL",
        markers=(rf"^state_dict/encoder_q\.{ENCODER}", rf"^state_dict/encoder_k\.{ENCODER}"),
        branches={"query": Branch("encoder_q.", STATE_DICT), "key": Branch("encoder_k.", STATE_DICT)},
        extra=CLASSIFIER + MLP_HEAD,
    ),
    Layout(
        name="moco-v3",
        description="MoCo v3",
        source="facebookresearch/moco-v3 moco/builder.py",
        markers=(
            rf"^state_dict/base_encoder\.{ENCODER}",
            r"^state_dict/momentum_encoder\.",
            r"^state_dict/predictor\.",
        ),
        branches={"base": Branch("base_encoder.", STATE_DICT), "momentum": Branch("momentum_encoder.", STATE_DICT)},
        extra=CLASSIFIER + MLP_HEAD,
    ),
    Layout(
        name="simsiam",
        description="SimSiam",
        source="facebookresearch/simsiam simsiam/builder.py",
        markers=(rf"^state_dict/encoder\.{ENCODER}", r"^state_dict/encoder\.fc\.0\.", r"^state_dict/predictor\."),
        absent=(r"^state_dict/encoder_k\.",),
        branches={"encoder": Branch("encoder.", STATE_DICT)},
        extra=MLP_HEAD,
    ),
    Layout(
        name="pycontrast",
        description="PyContrast: InsDis, MoCo, MoCo v2, PIRL, InfoMin (with or without jigsaw)",
        source="HobbitLong/PyContrast networks/build_backbone.py, learning/contrast_trainer.py; [specification 1.5]",
        markers=(rf"^model/encoder\.{ENCODER}", r"^model/head\."),
        absent=(r"^model/encoder_k\.", r"^model/projector", r"^model/encoder1\."),
        branches={"query": Branch("encoder.", MODEL), "key": Branch("encoder.", ("model_ema",))},
    ),
    Layout(
        name="pycontrast-cmc",
        description="PyContrast's CMC and CMC v2: two encoders, for the one luminance and the two colour channels",
        source="HobbitLong/PyContrast networks/build_backbone.py CMCSingleHead",
        markers=(rf"^model/encoder1\.{ENCODER}", rf"^model/encoder2\.{ENCODER}"),
        branches={"encoder1": Branch("encoder1.", MODEL), "encoder2": Branch("encoder2.", MODEL)},
        refused=(
            "CMC's encoders read 1 and 2 colour channels (L and ab, or Y and DbDr), half as wide each; "
            "a detector reads the three channels of an image"
        ),
    ),
    Layout(
        name="pixpro",
        description="PixPro",
        source="zdaxie/PixPro contrast/models/PixPro.py, transfer/detection/convert_pretrain_to_d2.py",
        markers=(rf"^model/encoder\.{ENCODER}", r"^model/encoder_k\.", r"^model/projector"),
        branches={"query": Branch("encoder.", MODEL), "key": Branch("encoder_k.", MODEL)},
        extra=CLASSIFIER,
    ),
    # Without negatives
    Layout(
        name="swav",
        description="SwAV, DeepCluster-v2, SeLa-v2: training checkpoints and released files, w2/w4/w5 included",
        source="facebookresearch/swav src/resnet50.py, main_swav.py, eval_linear.py",
        markers=(rf"^state_dict/{ENCODER}", r"^state_dict/(prototypes|projection_head)"),
        branches={"encoder": Branch("", STATE_DICT)},
        extra=(r"(prototypes|projection_head)\..*",),
    ),
    Layout(
        name="barlow-twins",
        description="Barlow Twins, full training checkpoint",
        source="facebookresearch/barlowtwins main.py",
        markers=(rf"^model/backbone\.{ENCODER}", r"^model/projector\.", r"^model/bn\.running_mean$"),
        branches={"encoder": Branch("backbone.", MODEL)},
    ),
    Layout(
        name="vicreg",
        description="VICReg, full training checkpoint",
        source="facebookresearch/vicreg main_vicreg.py",
        markers=(rf"^model/backbone\.{ENCODER}", r"^model/projector\."),
        absent=(r"^model/bn\.", r"^model/classifier\.", r"momentum_", r"local_projector"),
        branches={"encoder": Branch("backbone.", MODEL)},
    ),
    Layout(
        name="dino",
        description="DINO with a ResNet, training checkpoint: the teacher by default, as DINO's own evaluation",
        source="facebookresearch/dino main_dino.py, utils.py",
        markers=(rf"^teacher/backbone\.{ENCODER}", r"^student/backbone\.", r"^(teacher|student)/head\."),
        branches={"teacher": Branch("backbone.", ("teacher",)), "student": Branch("backbone.", ("student",))},
        extra=CLASSIFIER,
    ),
    Layout(
        name="byol-deepmind",
        description="BYOL, DeepMind's pickle (haiku)",
        source="google-deepmind/deepmind-research byol/utils/networks.py, byol/byol_experiment.py, byol/utils/dataset.py",
        markers=(r"^experiment_state\.online_params\.res_net\d+/", r"^experiment_state\.online_state\.res_net\d+/"),
        branches={
            copy: Branch("", ("experiment_state", f"{copy}_params"), state=("experiment_state", f"{copy}_state"))
            for copy in ("online", "target")
        },
        # Of the statistics haiku also stores the sums before their correction (hidden) and how often it took them (counter).
        extra=(r".*/(hidden|counter)", r"res_net\d+/logits/.*", r"(projector|predictor|classifier)/.*"),
        naming="haiku",
        note=(
            "trained with TensorFlow's SAME padding, which is one-sided where a layer strides; Detectron2 pads both sides, "
            "so features lie up to a pixel off. The proof compares with torchvision's network, which pads as Detectron2 does"
        ),
    ),
    Layout(
        name="byol-lucidrains",
        description="byol-pytorch: the online network by default",
        source="lucidrains/byol-pytorch byol_pytorch/byol_pytorch.py",
        markers=(
            rf"^state_dict/online_encoder\.net\.{ENCODER}",
            r"^state_dict/online_(encoder\.projector|predictor)\.",
        ),
        branches={
            "online": Branch("online_encoder.net.", STATE_DICT, twin="net."),
            "target": Branch("target_encoder.net.", STATE_DICT),
        },
        extra=CLASSIFIER,
    ),
    # SimCLR, in its ports
    Layout(
        name="simclr-port",
        description="SimCLR v1 and v2 of Google, ported to torch (r50_1x_sk0 and wider)",
        source="Separius/SimCLRv2-Pytorch convert.py and resnet.py",
        markers=(r"^resnet/net\.0\.0\.weight$", r"^resnet/net\.[1-4]\.blocks\."),
        branches={"encoder": Branch("", ("resnet",))},
        extra=CLASSIFIER,
        naming="simclr port",
        contract=ZERO_TO_ONE,
        note="pixels in [0, 1] without mean and standard deviation, as Google's SimCLR was trained",
    ),
    Layout(
        name="simclr-v1",
        description="SimCLR v1 of Google, converted to torchvision's names: only with --source, its content is torchvision's",
        source="tonylins/simclr-converter [from memory]; linusericsson/ssl-transfer readme (--no-norm)",
        markers=(rf"^/{ENCODER}", r"^/layer4\.\d"),
        branches={"encoder": Branch("")},
        extra=CLASSIFIER,
        contract=ZERO_TO_ONE,
        note="pixels in [0, 1] without mean and standard deviation, as Google's SimCLR was trained",
        asked_only=True,
    ),
    Layout(
        name="simclr-spijkervet",
        description="SimCLR of Spijkervet: encoder and projector",
        source="Spijkervet/SimCLR simclr/simclr.py, simclr/modules/transformations/simclr.py (ToTensor, no normalisation)",
        markers=(rf"^/encoder\.{ENCODER}", r"^/projector\.0\.weight$"),
        absent=(r"^/encoder_k\.", r"^/head\.", r"^/predictor\."),
        branches={"encoder": Branch("encoder.")},
        extra=CLASSIFIER,
        contract=ZERO_TO_ONE,
        note="pixels in [0, 1] without mean and standard deviation, as that repository trains",
    ),
    Layout(
        name="simclr-sthalles",
        description="SimCLR of sthalles: a backbone whose fc is the projection head",
        source="sthalles/SimCLR models/resnet_simclr.py, data_aug/contrastive_learning_dataset.py [from memory]",
        markers=(rf"^state_dict/backbone\.{ENCODER}", r"^state_dict/backbone\.fc\.0\."),
        absent=(r"^state_dict/(?!backbone\.)",),
        branches={"encoder": Branch("backbone.", STATE_DICT)},
        extra=MLP_HEAD,
        contract=ZERO_TO_ONE,
        note="pixels in [0, 1] without mean and standard deviation, as that repository trains",
    ),
    # Frameworks
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
        source="facebookresearch/vissl docs load_models.rst",
        markers=(rf"{TRUNK_PLACE}base_model\._feature_blocks\.{ENCODER}",),
        branches={"trunk": Branch("base_model._feature_blocks.", VISSL_TRUNK)},
    ),
    Layout(
        name="mmselfsup",
        description="MMSelfSup 1.x and mmpretrain, raw",
        source="open-mmlab/mmselfsup mmselfsup/models/algorithms/moco.py, tools/.../extract_backbone_weights.py",
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
        source="WXinlong/DenseCL openselfsup/models/densecl.py",
        markers=(rf"^state_dict/backbone\.{ENCODER}", rf"^state_dict/encoder_q\.0\.{ENCODER}"),
        branches={
            "query": Branch("backbone.", STATE_DICT, twin="encoder_q.0."),
            "key": Branch("encoder_k.0.", STATE_DICT),
        },
    ),
    Layout(
        name="mmselfsup-extracted",
        description="MMSelfSup and DenseCL, extracted with extract_backbone_weights.py",
        source="open-mmlab/mmselfsup tools/model_converters/extract_backbone_weights.py",
        markers=(rf"^state_dict/{ENCODER}",),
        keys=("author",),
        absent=(r"^state_dict/(prototypes|projection_head)",),
        branches={"backbone": Branch("", STATE_DICT)},
    ),
    Layout(
        name="solo-learn",
        description="solo-learn (Lightning)",
        source="vturrisi/solo-learn solo/methods/base.py",
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
        source="lightly-ai/lightly examples/pytorch_lightning",
        markers=(r"^state_dict/backbone\.[4-7]\.\d+\.(conv|bn)\d", r"^state_dict/backbone\.[01]\."),
        branches={
            "backbone": Branch("backbone.", STATE_DICT),
            "momentum": Branch("backbone_momentum.", STATE_DICT),
            "student": Branch("student_backbone.", STATE_DICT),
            "teacher": Branch("teacher_backbone.", STATE_DICT),
        },
        naming="sequential",
    ),
    Layout(
        name="stable-pretraining",
        description="stable-pretraining (Lightning), methods with an averaged encoder: the teacher, its wrapper's own default",
        source="rbalestr-lab/stable-pretraining stable_pretraining/backbone/utils.py TeacherStudentWrapper",
        markers=(rf"^state_dict/backbone\.student\.{ENCODER}", rf"^state_dict/backbone\.teacher\.{ENCODER}"),
        branches={
            "teacher": Branch("backbone.teacher.", STATE_DICT),
            "student": Branch("backbone.student.", STATE_DICT),
        },
        extra=CLASSIFIER,
    ),
    # Libraries of networks
    Layout(
        name="torchvision",
        description=(
            "torchvision and timm (.pth, .safetensors), and flat files with their names: lightly-train's exports, "
            "MoCo's linear evaluation, DINO's, VICReg's and Barlow Twins' final backbone"
        ),
        source="torchvision models/resnet.py; timm models/resnet.py; lightly-train torchvision_package.py",
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
    # Detectron2's
    Layout(
        name="detectron2-converted",
        description="weights that another converter wrote for Detectron2 (MoCo's, PyContrast's, Detectron2's torchvision one)",
        source="detectron2 tools/convert-torchvision-to-d2.py, PyContrast detection/convert_pretrained.py",
        markers=(r"^model/stem\.conv1\.(norm\.|weight$)", r"^model/res5\.0\."),
        absent=(r"^model/backbone\.",),
        absent_keys=(OUR_AUTHOR,),
        branches={"converted": Branch("", MODEL)},
        extra=(r"stem\.(fc|queue|queue_ptr)(\..*)?",),  # junk that those converters carry along
        naming="detectron2",
        contract=None,
    ),
    Layout(
        name=DETECTOR_LAYOUT,
        description="a detector of Detectron2 or of tools/train_net.py, FPN or C4: its backbone (needs config.yaml beside it)",
        source="detectron2 modeling/meta_arch/rcnn.py, modeling/backbone/fpn.py, modeling/roi_heads/roi_heads.py",
        markers=(r"^model/backbone\.(bottom_up\.)?stem\.conv1\.", r"^model/(proposal_generator|roi_heads|head)\."),
        branches={"backbone": Branch("", MODEL)},
        extra=(r"(?!backbone\.(bottom_up\.)?(stem|res[2-5])\.|roi_heads\.res5\.\d).*",),
        naming="detectron2 detector",
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
        by_arch={"resnext101_32x8d": FAIR_BGR, "resnext152_32x8d": FAIR_IN5K_BGR},
    ),
)
AUTOMATIC: tuple[Layout, ...] = tuple(layout for layout in LAYOUTS if not layout.asked_only)
