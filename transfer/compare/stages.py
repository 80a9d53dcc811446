"""A study as a list of stages: which command makes what, out of what.

In: `StudyConfig`. Out: `Stage` values in running order. Commands are the project's own tools; {output} and {root} stand
for the study's folder and the project, so that the same study has the same commands wherever it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from transfer.compare.study_config import (
    NO_WEIGHTS,
    PRETRAINED,
    ROOT,
    InitConfig,
    StudyConfig,
    detection_files,
    pretrain_files,
    readout_files,
    weight_files,
)

DATA = "{output}/data"
CONVERTED = "{output}/weights/pretrained.pth"
CHECKPOINT = re.compile(r"\{checkpoint:([^{}]+)\}")


def checkpoint_of(folder: str) -> str:
    """Stands in a command for the last checkpoint of the pre-training in `folder`, which is known once that has finished."""
    return f"{{checkpoint:{folder}}}"


@dataclass(frozen=True)
class Stage:
    """One command and what it makes.

    name: unique, also names the log. title: for people. command: what follows the Python interpreter. folder: what the
    command fills, below the study's folder; emptied before a fresh start. result: the file that says it has finished.
    needs: names of the stages whose results go in. files: configuration and weight files that go in.
    resumes: on SIGTERM the command saves its state in `folder`, and goes on from there when it is run again.
    init, seed: of a measurement, else None.
    """

    name: str
    title: str
    command: tuple[str, ...]
    folder: str
    result: str
    needs: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    resumes: bool = False
    init: str | None = None
    seed: int | None = None

    def fingerprint(self) -> str:
        """Hash of the command and of the content of every file that goes in, bases included."""
        parts = [list(self.command), [hashlib.sha256(path.read_bytes()).hexdigest() for path in with_bases(self.files)]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def plan_stages(config: StudyConfig) -> tuple[Stage, ...]:
    """All stages of a study: preparation, then seed by seed all initialisations, then the report."""
    preparation = _preparation(config)
    measurements = (*_readouts(config), *_detections(config))
    folders = ["{output}/" + stage.folder for stage in measurements]
    if config.pretrain:
        folders.append("{output}/pretrain")
    report = Stage(
        name="report",
        title="report",
        command=("{root}/tools/report.py", *folders, "--output", "{output}/report"),
        folder="report",
        result="report/index.html",
        needs=tuple(stage.name for stage in measurements) + (("pretrain",) if config.pretrain else ()),
    )
    return (*preparation, *measurements, report)


def _preparation(config: StudyConfig) -> list[Stage]:
    """Data, pre-training and conversion, as far as the study has them."""
    stages = []
    if config.data:
        command = ("{root}/tools/make_demo_data.py", "--output-dir", DATA, *config.data.arguments)
        stages.append(Stage("data", "make the data set", command, folder="data", result="data/dataset.json"))
    if config.pretrain:
        (config_file,) = pretrain_files(config)
        overrides = tuple(text.replace("{data}", DATA) for text in config.pretrain.overrides)
        command = (
            "{root}/tools/pretrain.py",
            "--config-file",
            rooted(config_file),
            "--output-dir",
            "{output}/pretrain",
        )
        stages.append(
            Stage(
                name="pretrain",
                title="pre-train",
                command=(*command, "--resume", "auto", *overrides),
                folder="pretrain",
                result="pretrain/result.json",
                needs=_on(config.data, "data"),
                files=(config_file,),
                resumes=True,
            )
        )
        command = (
            "{root}/tools/convert_weights.py",
            checkpoint_of("pretrain"),
            CONVERTED,
            "--branch",
            config.pretrain.branch,
            "--overwrite",
        )
        title = "convert the weights and prove them equal"
        result = CONVERTED.removeprefix("{output}/")
        stages.append(Stage("convert", title, command, folder="weights", result=result, needs=("pretrain",)))
    return stages


def _detections(config: StudyConfig) -> list[Stage]:
    """Fine-tuning of every initialisation, seed by seed."""
    if config.detect is None:
        return []
    stages = []
    files = dict(zip((init.name for init in config.inits), detection_files(config), strict=True))
    for seed in config.detect.seeds:
        for init in config.inits:

            def fill(text: str, name: str = init.name) -> str:
                return text.replace("{data}", DATA).replace("{init}", name)

            folder = f"detect/{init.name}_seed{seed}"
            command = (
                "{root}/tools/train_net.py",
                *("--config-file", rooted(files[init.name])),
                *("--train-data", fill(config.detect.train_data), "--test-data", fill(config.detect.test_data)),
                *("--init", init.name),
                *("OUTPUT_DIR", "{output}/" + folder, "SEED", str(seed), "MODEL.WEIGHTS", _weights(init) or ""),
                *(fill(text) for text in config.detect.overrides),
            )
            stages.append(
                Stage(
                    name=f"detect-{init.name}-seed{seed}",
                    title=f"fine-tune from {init.name}, seed {seed}",
                    command=command,
                    folder=folder,
                    result=f"{folder}/result.json",
                    needs=_inputs(config, init),
                    files=(files[init.name], *_outside(config, init)),
                    init=init.name,
                    seed=seed,
                )
            )
    return stages


def _readouts(config: StudyConfig) -> list[Stage]:
    """Linear readout of every initialisation, seed by seed."""
    if config.readout is None:
        return []
    stages = []
    files = readout_files(config)
    for seed in config.readout.seeds:
        for init in config.inits:
            folder = f"readout/{init.name}_seed{seed}"
            command = (
                "{root}/tools/linear_eval.py",
                *("--weights", _weights(init) or f"random:{config.readout.arch}", "--init-name", init.name),
                *("--data", config.readout.data.replace("{data}", DATA), "--output-dir", "{output}/" + folder),
                *(("--config-file", rooted(files[0])) if files else ()),
                *(f"seed={seed}", *config.readout.overrides),
            )
            stages.append(
                Stage(
                    name=f"readout-{init.name}-seed{seed}",
                    title=f"linear readout of {init.name}, seed {seed}",
                    command=command,
                    folder=folder,
                    result=f"{folder}/linear_result.json",
                    needs=_inputs(config, init),
                    files=(*files, *_outside(config, init)),
                    init=init.name,
                    seed=seed,
                )
            )
    return stages


def _weights(init: InitConfig) -> str | None:
    """The weight file that a measurement of `init` starts from; None for random weights."""
    if init.weights == NO_WEIGHTS:
        return None
    return CONVERTED if init.weights == PRETRAINED else rooted(ROOT / init.weights)


def _inputs(config: StudyConfig, init: InitConfig) -> tuple[str, ...]:
    return _on(config.data, "data") + (("convert",) if init.weights == PRETRAINED else ())


def _outside(config: StudyConfig, init: InitConfig) -> tuple[Path, ...]:
    return tuple(path for path in weight_files(config) if path == ROOT / init.weights)


def _on(part: object, name: str) -> tuple[str, ...]:
    return () if part is None else (name,)


def rooted(path: Path) -> str:
    """A path inside the project as {root}/..., another one as it is."""
    return "{root}/" + str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def with_bases(files: tuple[Path, ...]) -> list[Path]:
    """`files` and what their `base` (ours) and `_BASE_` (Detectron2's, one or a list) entries name, each once."""
    found: list[Path] = []
    waiting = list(files)
    while waiting:
        path = waiting.pop(0)
        if path in found or not path.is_file():
            continue
        found.append(path)
        if path.suffix not in (".yaml", ".yml"):
            continue
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the tool that reads it will say what is wrong
        for key in ("base", "_BASE_"):
            bases = values.get(key, []) if isinstance(values, dict) else []
            waiting += [(path.parent / str(base)).resolve() for base in (bases if isinstance(bases, list) else [bases])]
    return found
