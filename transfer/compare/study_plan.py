"""The plan of a study as data: which commands, in which order, out of what. Nothing is read, run or written here.

In: `StudyConfig` with everything chosen, `StudyData`. Out: stages. Their folders, below the output folder:

| folder                                   | what                                                                          |
|------------------------------------------|-------------------------------------------------------------------------------|
| data/                                    | the embedded data set                                                         |
| splits/                                  | what the study writes of one's own data (transfer/compare/study_data.py)      |
| pretrain/seed0, pretrain/NAME/seed0      | a pre-training a seed: the study's, an initialisation's own                   |
| weights/seed0, weights/NAME              | converted and proven weights                                                  |
| detect/NAME/p0_f0.1_s0, readout/NAME/... | a measurement: pre-training seed (where there is one), fraction, seed         |
| report/                                  | the report                                                                    |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from transfer.compare.stages import (
    Stage,
    checkpoint_of,
    convert_stage,
    converted,
    detect_stage,
    pretrain_stage,
    readout_stage,
    rooted,
    tool_stage,
)
from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    InitConfig,
    PretrainConfig,
    StudyConfig,
    detection_file,
    pretrain_file,
    readout_file,
    weight_file,
)

DATA = "{output}/data"
RANDOM = "random"
LIKE = "like:"  # transfer/detect/inits.py's, which needs Detectron2
RANDOM_WEIGHTS = (NO_WEIGHTS, RANDOM, "random_bgr")  # the last two: names of tools/train_net.py --init
STEPS_AT = (3 / 4, 11 / 12)  # of a schedule of so many iterations, where the rate falls: VOC's "24k"
WARMUP = 0.1  # of it, at most
LONGEST_WARMUP = 1000  # iterations


@dataclass(frozen=True)
class StudyData:
    """Where the images of a study are, as its commands name them.

    pool: for data.root; None: the pre-trainings name their own. train: (fraction, seed) -> SPEC. test: SPEC.
    readout: folder with train/ and val/.
    written: annotation files that the study wrote, whose crowd regions are known to be ones.
    files: annotation files whose content counts for whether a stage is done.
    random: text of --init for random weights: the input of the others.
    """

    pool: str | None = None
    train: Mapping[tuple[float, int], str] = field(default_factory=dict)
    test: str = ""
    readout: str | None = None
    written: bool = False
    files: tuple[Path, ...] = ()


def plan_study(config: StudyConfig, data: StudyData) -> tuple[Stage, ...]:
    """All stages: preparation, then seed by seed all fractions and initialisations, then the report."""
    preparation = (*data_stages(config), *_pretrainings(config, data), *_conversions(config))
    measurements = (*_readouts(config, data), *_detections(config, data))
    folders = [
        f"{{output}}/{kind}"
        for kind in ("readout", "detect")
        if any(stage.folder.startswith(kind) for stage in measurements)
    ]
    pretrainings = [stage.name for stage in preparation if stage.resumes]
    report = tool_stage(
        "report",
        *(*folders, *(["{output}/pretrain"] if pretrainings else [])),
        *("--output", "{output}/report", "--study", "{output}"),
        *(("--baseline", config.baseline) if config.baseline else ()),
        name="report",
        title="report",
        folder="report",
        result="index.html",
        needs=(*(stage.name for stage in measurements), *pretrainings),
    )
    return (*preparation, *measurements, report)


def data_stages(config: StudyConfig) -> list[Stage]:
    """The embedded data set, where the study has it."""
    if config.data is None:
        return []
    return [
        tool_stage(
            "make_demo_data",
            *("--output-dir", DATA, *config.data.arguments),
            name="data",
            title="make the data set",
            folder="data",
            result="dataset.json",
        )
    ]


def with_data(text: str) -> str:
    """{data} as a command names it."""
    return text.replace("{data}", DATA)


def schedule_overrides(iterations: int) -> list[str]:
    """KEY VALUE pairs of a training of so many iterations, evaluated at its end."""
    steps = sorted({round(share * iterations) for share in STEPS_AT} - {0, iterations})
    text = f"({', '.join(map(str, steps))}{',' if len(steps) == 1 else ''})"
    return [
        *("SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", text, "TEST.EVAL_PERIOD", "0"),
        *("SOLVER.WARMUP_ITERS", str(min(LONGEST_WARMUP, int(WARMUP * iterations)))),
        *("SOLVER.CHECKPOINT_PERIOD", str(iterations)),
    ]


# --- what the measurements start from -----------------------------------------------------------------------------------


def _below(name: str) -> str:
    """The folder of an initialisation's own pre-training; none for the study's."""
    return f"/{name}" if name else ""


def _pretrain_name(name: str, seed: int) -> str:
    return "-".join(["pretrain", *([name] if name else []), f"seed{seed}"])


def _pretrainings(config: StudyConfig, data: StudyData) -> Iterator[Stage]:
    for name, part in config.pretrainings.items():
        for seed in part.seeds:
            file = pretrain_file(part)
            assert file is not None, "chosen before anything is planned"
            yield pretrain_stage(
                name=_pretrain_name(name, seed),
                title=f"pre-train{name and f' {name}'}, seed {seed}",
                folder=f"pretrain{_below(name)}/seed{seed}",
                config_file=file,
                overrides=[*_run_overrides(part, data, seed), *map(with_data, part.overrides)],
                needs=[stage.name for stage in data_stages(config)],
            )


def _run_overrides(part: PretrainConfig, data: StudyData, seed: int) -> list[str]:
    return [
        *([f"data.root={data.pool}"] if data.pool else []),
        f"seed={seed}",
        *([f"optimizer.epochs={part.epochs}"] if part.epochs else []),
    ]


def _conversions(config: StudyConfig) -> Iterator[Stage]:
    for name, part in config.pretrainings.items():
        for seed in part.seeds:
            yield convert_stage(
                name=f"convert-{_pretrain_name(name, seed).removeprefix('pretrain-')}",
                title=f"convert{name and f' {name}'}, seed {seed}, and prove it equal",
                folder=f"weights{_below(name)}/seed{seed}",
                checkpoint=checkpoint_of(f"pretrain{_below(name)}/seed{seed}"),
                branch=part.branch,
                needs=[_pretrain_name(name, seed)],
            )
    for init in config.inits:
        file = weight_file(init)
        if file is not None and needs_conversion(file):
            yield convert_stage(
                name=f"convert-{init.name}",
                title=f"convert {init.name} and prove it equal",
                folder=f"weights/{init.name}",
                checkpoint=rooted(file),
                files=[file] if file.is_file() else [],
            )


def needs_conversion(file: Path) -> bool:
    """A checkpoint as it was downloaded: no sidecar lies beside it."""
    return not file.with_suffix(".json").is_file()


@dataclass(frozen=True)
class _Start:
    """One start of an initialisation: with pre-trainings, one for each of their seeds.

    pretrain_seed: None for weights that the study does not make. weights: None for random ones and names of the catalog.
    like: of random weights: whose input they take, a file or a name of the catalog (like_catalog); "": that of our own weights.
    """

    init: InitConfig
    pretrain_seed: int | None
    weights: str | None
    needs: tuple[str, ...]
    files: tuple[Path, ...] = ()
    like: str = ""
    like_catalog: bool = False

    def folder(self, kind: str, fraction: float, seed: int) -> str:
        made = "" if self.pretrain_seed is None else f"p{self.pretrain_seed}_"
        return f"{kind}/{self.init.name}/{made}f{fraction:g}_s{seed}"

    def title(self, fraction: float, seed: int, *, several: bool) -> str:
        made = "" if self.pretrain_seed is None else f" (pre-training seed {self.pretrain_seed})"
        return f"{self.init.name}{made}, {f'{fraction:.3g} of the labels, ' if several else ''}seed {seed}"

    @property
    def text(self) -> str:
        """For --init of tools/train_net.py."""
        name, weights = self.init.name, self.weights or self.init.weights
        if self.init.weights == NO_WEIGHTS:
            weights = f"{LIKE}{self.like}" if self.like else RANDOM
        return name if name == weights else f"{name}={weights}"

    def for_readout(self, arch: str) -> str | None:
        """For --weights of tools/linear_eval.py; None for a name of the detector's catalog. arch: of random weights."""
        if self.weights is not None or self.init.weights not in RANDOM_WEIGHTS:
            return self.weights
        return f"{RANDOM}:{arch}:{self.like}" if self.like and not self.like_catalog else f"{RANDOM}:{arch}"


def _starts(config: StudyConfig, init: InitConfig) -> list[_Start]:
    needs = tuple(stage.name for stage in data_stages(config))
    if init.weights == PRETRAINED:
        name = init.name if init.pretrain else ""
        part = init.pretrain or config.pretrain
        assert part is not None, "StudyConfig sees to that"
        return [
            _Start(
                init,
                seed,
                converted(f"weights{_below(name)}/seed{seed}"),
                (*needs, f"convert-{name and f'{name}-'}seed{seed}"),
            )
            for seed in part.seeds
        ]
    if init.input_of is not None:
        other = next(one for one in config.inits if one.name == init.input_of)
        like = _starts(config, other)[0]
        return [
            replace(
                like,
                init=init,
                pretrain_seed=None,
                weights=None,
                like=like.weights or other.weights,
                like_catalog=like.weights is None,
            )
        ]
    file = weight_file(init)
    if file is None:
        return [_Start(init, None, None, needs)]
    if needs_conversion(file):
        return [_Start(init, None, converted(f"weights/{init.name}"), (*needs, f"convert-{init.name}"))]
    return [_Start(init, None, rooted(file), needs, (file,))]


# --- the measurements ---------------------------------------------------------------------------------------------------


def _detections(config: StudyConfig, data: StudyData) -> Iterator[Stage]:
    part, file = config.detect, detection_file(config)
    if part is None:
        return
    assert file is not None, "chosen before anything is planned"
    schedule = schedule_overrides(part.iterations) if part.iterations else []
    for seed in part.seeds:
        for fraction in part.fractions:
            for init in config.inits:
                for start in _starts(config, init):
                    folder = start.folder("detect", fraction, seed)
                    yield detect_stage(
                        name=folder.replace("/", "-"),
                        title=f"fine-tune from {start.title(fraction, seed, several=len(part.fractions) > 1)}",
                        folder=folder,
                        init=start.text,
                        seed=seed,
                        train_data=data.train[fraction, seed],
                        test_data=data.test,
                        config_file=file,
                        flags=["--keep-crowds"] if data.written else [],
                        overrides=[*schedule, *map(with_data, part.overrides)],
                        needs=start.needs,
                        files=[*start.files, *data.files],
                        fraction=fraction,
                    )


def _readouts(config: StudyConfig, data: StudyData) -> Iterator[Stage]:
    part = config.readout
    if part is None:
        return
    assert data.readout is not None and part.arch is not None, "chosen before anything is planned"
    for seed in part.seeds:
        for fraction in part.fractions:
            for init in config.inits:
                for start in _starts(config, init):
                    weights = start.for_readout(part.arch)
                    if weights is None:
                        continue
                    folder = start.folder("readout", fraction, seed)
                    yield readout_stage(
                        name=folder.replace("/", "-"),
                        title=f"linear readout of {start.title(fraction, seed, several=len(part.fractions) > 1)}",
                        folder=folder,
                        weights=weights,
                        init=init.name,
                        seed=seed,
                        data=data.readout,
                        config_file=readout_file(part),
                        overrides=part.overrides,
                        needs=start.needs,
                        files=start.files,
                        fraction=fraction,
                    )
