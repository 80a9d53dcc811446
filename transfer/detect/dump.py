"""The configuration of a run, complete, for Detectron2's own tools/train_net.py.

In: `RunOptions`. Out: a YAML file with every value, and a header that says how to run it and what Detectron2 lacks for it. Nothing
else is written, nothing is trained. What this machine would decide (device, seed, processes) stays as the configuration has it.
"""

from __future__ import annotations

from pathlib import Path

import detectron2
from detectron2.config import CfgNode

from pretrain.base.atomic import write_text
from pretrain.base.errors import ConfigError
from transfer.data.spec import DataSpec, PreparedData, parse_spec
from transfer.detect.config import portable_config
from transfer.detect.heads import Res5ROIHeadsExtraNorm
from transfer.detect.loading import plan_weights
from transfer.detect.options import RunOptions
from transfer.detect.request import ask_config, check_options, given_keys, import_modules, own_data, scaled_config

STOCK = "DETECTRON2/tools/train_net.py"


def dump_config(options: RunOptions, path: Path) -> str:
    """Write the configuration that `options` ask for to `path`. Returns what to tell the user.

    Raises ConfigError for a file that is there already, and what `prepare_run` refuses of configuration, weights and data.
    """
    if path.exists():
        raise ConfigError(f"--dump-config {path}: it exists; name another file")
    if options.accumulate != 1:
        raise ConfigError(
            "--dump-config and --accumulate: Detectron2's own train_net.py accumulates nothing; leave one out"
        )
    if options.resume or options.eval_only:
        raise ConfigError("--dump-config is of a run that begins: leave --resume and --eval-only out")
    import_modules(options.modules)
    train, test = (parse_spec(text) if text else None for text in (options.train_data, options.test_data))
    check_options(options, train, test)
    asked, _, applied = ask_config(options)
    weights = plan_weights(asked, eval_only=False, resume=False, trust=options.trust)
    data, _ = own_data(options, train, test, weights)
    asked, scaled = scaled_config(options, asked, data)
    config, notes = portable_config(asked, given=given_keys(options), data=data)
    lines = _header(options, config, path, data, (train, test), (*applied, *scaled, weights.note, *notes))
    try:
        write_text(path, "".join(f"# {line}".rstrip() + "\n" for line in lines) + config.dump())
    except OSError as error:
        raise ConfigError(f"--dump-config {path} cannot be written: {error.strerror or error}") from None
    return f"wrote {path}; its first lines say how Detectron2's own train_net.py takes it"


def _header(
    options: RunOptions,
    config: CfgNode,
    path: Path,
    data: PreparedData | None,
    specs: tuple[DataSpec | None, DataSpec | None],
    notes: tuple[str, ...],
) -> list[str]:
    lines = [
        f"Every value of a run as Detectron2 {detectron2.__version__} has it, written by: {options.command or 'a program'}",
        f"Run it:  python {STOCK} --config-file {path} --num-gpus 8 OUTPUT_DIR runs/stock",
        *(f"  {line}" for note in notes for line in note.splitlines()),
    ]
    if Res5ROIHeadsExtraNorm.__name__ == config.MODEL.ROI_HEADS.NAME:
        lines += [
            f"NOT WITH DETECTRON2 ALONE: its MODEL.ROI_HEADS.NAME, {config.MODEL.ROI_HEADS.NAME}, is a head of this project, and stock",
            "train_net.py stops with a KeyError. Install this project beside Detectron2 (pip install .) and add the line `import transfer`",
            f"to {STOCK}; or run it with this project's tools/train_net.py --config-file {path}.",
        ]
    if config.MODEL.WEIGHTS and "://" not in config.MODEL.WEIGHTS:
        lines.append(
            "MODEL.WEIGHTS is as you gave it, from the folder that you start in. Stock train_net.py does not compare weights with these "
            "values: keep the input keys (INPUT.FORMAT, MODEL.PIXEL_*, MODEL.RESNETS.STRIDE_IN_1X1) as they are."
        )
    if data is not None:
        lines += _registrations(options, data, specs)
    return lines


def _registrations(
    options: RunOptions, data: PreparedData, specs: tuple[DataSpec | None, DataSpec | None]
) -> list[str]:
    """How Detectron2 comes to know the user's own data."""
    lines = [
        f"DATASETS are your own, under names that Detectron2 does not know: register them in {STOCK}, classes in this order: "
        f"{', '.join(data.class_names)}",
    ]
    for name, spec in zip((data.train_name, data.test_name), specs, strict=True):
        if name is None or spec is None:
            continue
        if spec.kind == "coco" and not spec.joined and options.read.class_names is None:
            lines.append(f"  register_coco_instances({name!r}, {{}}, {str(spec.source)!r}, {spec.detail!r})")
        else:
            lines.append(
                f"  {name}: {spec}, by DatasetCatalog.register and MetadataCatalog.get (Detectron2: custom datasets)"
            )
    return lines
