"""The wheel: built from this checkout, installed where no checkout is on the path, and used from another folder."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".yaml", ".j2", ".html", ".css"}
# Imported module -> distribution, where the names differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "yaml": "PyYAML",
}
OPTIONAL = {"detectron2", "wandb", "mlflow", "timm", "transformers", "onnx", "onnxruntime", "onnxscript", "fvcore"}
OPTIONAL |= {"triton"}  # comes with torch for CUDA on Linux

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation, which is without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves build/ and *.egg-info beside the sources.
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; the third-party packages are this one's, read through a .pth file, which does not
    follow the .pth files inside (and so not the checkout of an editable installation)."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_every_module_configuration_and_template(wheel: Path) -> None:
    expected = set()
    for folder, inside in (
        ("pretrain", "pretrain"),
        ("transfer", "transfer"),
        ("configs", "pretrain/configs"),
        ("tools", "infomin_tools"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                expected.add(f"{inside}/{path.relative_to(ROOT / folder).as_posix()}")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_declares_all_that_its_modules_import(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        sources = [archive.read(entry) for entry in archive.namelist() if entry.endswith(".py")]
    requirements = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in requirements}
    imported = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - OPTIONAL - {"pretrain", "transfer", "infomin_tools"}
    assert {"torch", "cv2"} <= foreign
    assert {DISTRIBUTIONS.get(module, module).lower() for module in foreign} <= declared


def test_pretrain_convert_report_run_from_another_folder(installed: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(16):
        Image.fromarray(generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(
            tmp_path / "images" / f"{index}.png"
        )

    def run(command: str, *words: str) -> str:
        done = subprocess.run(
            [installed / "bin" / command, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = "import pretrain, transfer; print(pretrain.__file__, transfer.__file__)"
    assert str(ROOT) not in run("python", "-c", where)  # the control: the checkout is not what runs
    run(
        "infomin-pretrain",
        "--config-file",
        "smoke",
        "--output-dir",
        "runs/pre",
        "data.root=images",
        "optimizer.epochs=1",
    )
    (checkpoint,) = (tmp_path / "runs" / "pre" / "checkpoints").glob("*.pt")
    run("infomin-convert", str(checkpoint), "weights/mine.pth")
    assert (tmp_path / "weights" / "mine.json").is_file()
    run("infomin-report", "runs/pre", "--output", "runs/report")
    assert "runs/pre" in (tmp_path / "runs" / "report" / "report.md").read_text()
    run("infomin-study", "--help")
