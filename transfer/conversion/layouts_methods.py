"""Layouts of the methods' own repositories. Data; see transfer/conversion/layouts.py.

Source of the table: peers.md 4.4 and the file named in each entry; infomin.md 1.5. [from memory]: read in no repository.
"""

from __future__ import annotations

from transfer.conversion.layout_entry import (
    CLASSIFIER,
    ENCODER,
    MLP_HEAD,
    MODEL,
    STATE_DICT,
    ZERO_TO_ONE,
    Branch,
    Layout,
)

MOCO_LIKE = (
    Layout(
        name="moco",
        description="MoCo v1 and v2, PCL",
        source="facebookresearch/moco main_moco.py, main_lincls.py; salesforce/PCL; peers.md 4.4",
        markers=(rf"^state_dict/encoder_q\.{ENCODER}", rf"^state_dict/encoder_k\.{ENCODER}"),
        branches={"query": Branch("encoder_q.", STATE_DICT), "key": Branch("encoder_k.", STATE_DICT)},
        extra=CLASSIFIER + MLP_HEAD,
    ),
    Layout(
        name="moco-v3",
        description="MoCo v3",
        source="facebookresearch/moco-v3 moco/builder.py; peers.md 4.4",
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
        source="facebookresearch/simsiam simsiam/builder.py; peers.md 4.4",
        markers=(rf"^state_dict/encoder\.{ENCODER}", r"^state_dict/encoder\.fc\.0\.", r"^state_dict/predictor\."),
        absent=(r"^state_dict/encoder_k\.",),
        branches={"encoder": Branch("encoder.", STATE_DICT)},
        extra=MLP_HEAD,
    ),
    Layout(
        name="pycontrast",
        description="PyContrast: InsDis, MoCo, MoCo v2, PIRL, InfoMin (with or without jigsaw)",
        source="HobbitLong/PyContrast networks/build_backbone.py, learning/contrast_trainer.py; infomin.md 1.5",
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
        source="zdaxie/PixPro contrast/models/PixPro.py, transfer/detection/convert_pretrain_to_d2.py; peers.md 4.4",
        markers=(rf"^model/encoder\.{ENCODER}", r"^model/encoder_k\.", r"^model/projector"),
        branches={"query": Branch("encoder.", MODEL), "key": Branch("encoder_k.", MODEL)},
        extra=CLASSIFIER,
    ),
)

WITHOUT_NEGATIVES = (
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
        source="facebookresearch/barlowtwins main.py; peers.md 4.4",
        markers=(rf"^model/backbone\.{ENCODER}", r"^model/projector\.", r"^model/bn\.running_mean$"),
        branches={"encoder": Branch("backbone.", MODEL)},
    ),
    Layout(
        name="vicreg",
        description="VICReg, full training checkpoint",
        source="facebookresearch/vicreg main_vicreg.py; peers.md 4.4",
        markers=(rf"^model/backbone\.{ENCODER}", r"^model/projector\."),
        absent=(r"^model/bn\.", r"^model/classifier\.", r"momentum_", r"local_projector"),
        branches={"encoder": Branch("backbone.", MODEL)},
    ),
    Layout(
        name="dino",
        description="DINO with a ResNet, training checkpoint: the teacher by default, as DINO's own evaluation",
        source="facebookresearch/dino main_dino.py, utils.py; peers.md 4.4",
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
)

SIMCLR = (
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
)

METHODS = MOCO_LIKE + WITHOUT_NEGATIVES + SIMCLR
