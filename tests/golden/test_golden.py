"""What the code computes now is what was recorded: see record.py. A value changes only with a reason in the commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.golden import record

FOLDER = Path(__file__).parent
# On another processor or torch a loss may differ in its last bits, and this small network multiplies such a difference by 100 a
# step: AVX2 against AVX-512 was 1.4e-6 after two steps, 2.6e-4 after three and 0.2 from the ninth on. So the first two steps are
# compared closely there, the rest only roughly.
CLOSE_STEPS, CLOSE, ROUGH = 2, 1e-4, 0.5
# Colour spaces are float arithmetic, whose rounding to bytes depends on the processor: AVX2 changed 1 to 12 of 16 images.
FLOAT_VIEWS = "family colour"


def recorded(section):
    return json.loads((FOLDER / f"{section}.json").read_text(encoding="utf-8"))


def same_processor(section, now):
    """Whether float results must be equal to the last bit."""
    then = recorded(section)["environment"]
    return all(then[name] == now[name] for name in ("torch", "cpu_capability"))


def explained(section, differences):
    """The message of a failure; empty when there are no differences."""
    if not differences:
        return ""
    then, now = recorded(section)["environment"], record.environment()
    changed = [f"{name}: {then.get(name)} then, {now.get(name)} now" for name in now if now[name] != then.get(name)]
    return "\n".join(
        [
            f"{len(differences)} differences from tests/golden/{section}.json:",
            *differences[:20],
            *(["environment:", *changed] if changed else []),
            "golden values change only with a reason in the commit; re-record with",
            f"  python tests/golden/record.py --output tests/golden --sections {section}",
        ]
    )


def differences(then, now, what=""):
    """Entries that are not equal, by name, however deep."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            line
            for name in sorted({*then, *now})
            for line in differences(then.get(name, "absent"), now.get(name, "absent"), f"{what}{name}: ")
        ]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [
            line for i, pair in enumerate(zip(then, now, strict=True), 1) for line in differences(*pair, f"{what}{i}: ")
        ]
    return [] if then == now else [f"{what}{then} recorded, {now} now"]


def loss_differences(then, now, *, exact):
    """Method and step of every loss that is another one."""
    assert set(then) == set(now)
    found = []
    for method, losses in then.items():
        assert len(losses) == len(now[method])
        for step, (a, b) in enumerate(zip(losses, now[method], strict=True), 1):
            old, new = float.fromhex(a), float.fromhex(b)
            tolerance = 0 if exact else CLOSE if step <= CLOSE_STEPS else ROUGH
            if not abs(old - new) <= tolerance:
                found.append(f"{method}, step {step}: {old!r} ({a}) recorded, {new!r} ({b}) now")
    return found


@pytest.mark.slow  # one recipe is compared by the control below
def test_views_are_the_recorded_ones(tmp_path):
    then, now = recorded("views")["values"], record.record_views(tmp_path)
    if not same_processor("views", record.environment()):
        then, now = ({n: v for n, v in values.items() if not n.startswith(FLOAT_VIEWS)} for values in (then, now))
    found = explained("views", differences(then, now))
    assert not found, found


@pytest.mark.slow
def test_losses_are_the_recorded_ones(tmp_path):
    exact = same_processor("losses", record.environment())
    found = loss_differences(recorded("losses")["values"], record.record_losses(tmp_path), exact=exact)
    assert not found, explained("losses", found)


def test_control_another_seed_gives_other_views(tmp_path):
    images = record.write_images(tmp_path / "images", record.SIZES)
    case = record.view_cases()["infomin, with patches"]
    then = recorded("views")["values"]["infomin, with patches"]
    assert record.views_of(case, images, tmp_path) == then
    found = explained(
        "views", differences({"infomin": then}, {"infomin": record.views_of(case, images, tmp_path, seed=8)})
    )
    assert "infomin: 00_64x64: " in found and "16 differences" in found and "--sections views" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("optimizer.learning_rate=0.0301", 2),
        ("seed=8", 1),
        ("method.momentum=0.91", 2),
        ("optimizer.weight_decay=2e-4", 2),
    ],
)
def test_control_a_planted_change_of_the_run_is_found(tmp_path, override, first):
    images = record.write_images(tmp_path / "images", record.SMALL_SIZES)
    now = record.losses_of("moco_v2", images, tmp_path / "run", override)
    then = recorded("losses")["values"]["moco_v2"]
    exact = same_processor("losses", record.environment())
    found = loss_differences({"moco_v2": then}, {"moco_v2": now}, exact=True)
    assert found and "moco_v2, step " in found[0]
    if exact:
        step = int(found[0].split("step ")[1].split(":")[0])
        assert first <= step <= first + 2


def test_control_one_bit_of_one_loss_is_found_and_named():
    then = recorded("losses")["values"]
    now = json.loads(json.dumps(then))
    value = torch.tensor(float.fromhex(now["infomin"][6]))
    now["infomin"][6] = torch.nextafter(value, torch.tensor(9.0)).item().hex()
    (line,) = loss_differences(then, now, exact=True)
    assert line.startswith("infomin, step 7: ") and "re-record with" in explained("losses", [line])
    assert not loss_differences(then, now, exact=False)


@pytest.mark.filterwarnings("ignore")
def test_detector_configurations_are_the_recorded_ones(tmp_path):
    then, now = recorded("detector_configs")["values"], record.record_detector_configs(tmp_path)
    found = explained("detector_configs", differences(then, now))
    assert not found, found


@pytest.mark.slow
def test_the_report_is_the_recorded_one(tmp_path):
    found = explained("report", differences(recorded("report")["values"], record.record_report(tmp_path)))
    assert not found, found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_conversions_are_the_recorded_ones(tmp_path):
    then, now = recorded("conversion")["values"], record.record_conversion(tmp_path)
    known = {name: value for name, value in now.items() if name in then}  # a layout may be added without a new record
    found = explained("conversion", differences(then, known))
    assert not found, found


@pytest.mark.slow
def test_converted_weights_of_our_own_and_of_moco_are_the_recorded_ones(tmp_path):
    def two(name):
        return name.startswith(("infomin-transfer, ", "moco, moco_v2"))

    then = {name: value for name, value in recorded("conversion")["values"].items() if two(name)}
    found = explained("conversion", differences(then, record.record_conversion(tmp_path, two)))
    assert len(then) == 4 and not found, found
