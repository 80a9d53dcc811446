"""Set-up: what stops it says what to do, and only a set-up that ran to its end is trusted."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def setup_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/setup_env.py as a module, with a project of its own to set up."""
    spec = importlib.util.spec_from_file_location("setup_env_under_test", ROOT / "tools" / "setup_env.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for path in (ROOT / "requirements").glob("*.txt"):
        (requirements / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "REQUIREMENTS", requirements)
    return module


class FakeEnvironment:
    """Answers `import ...` and versions from what is said to be installed, and notes what pip is asked for."""

    def __init__(self, folder: Path, versions: dict[str, str], broken: dict[str, str] | None = None) -> None:
        self.folder, self.versions, self.broken, self.asked = folder, versions, broken or {}, []
        self.python = folder / "bin" / "python"

    def run(self, code: str) -> tuple[bool, str]:
        for name, error in self.broken.items():
            if f"import {name}" in code:
                return False, error
        return True, "0.6 at /somewhere"

    def version(self, package: str) -> str | None:
        return self.versions.get(package)

    def pip(self, *arguments: str) -> None:
        self.asked.append(" ".join(arguments))


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 9)])
def test_supported_pythons_pass(setup_env: ModuleType, version: tuple[int, ...]) -> None:
    setup_env.check_python(version)


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 15, 0), (2, 7, 18)])
def test_another_python_is_named_with_one_that_fits(setup_env: ModuleType, version: tuple[int, ...]) -> None:
    found = ".".join(map(str, version))
    with pytest.raises(setup_env.SetupError, match=rf"3\.10 to 3\.14.*found {found}.*make setup PYTHON=python3\.11"):
        setup_env.check_python(version, runs=lambda name: name == "python3.11")
    with pytest.raises(setup_env.SetupError, match="Install one"):
        setup_env.check_python(version, runs=lambda name: False)


def test_an_old_python_can_parse_the_script() -> None:
    ast.parse((ROOT / "tools" / "setup_env.py").read_text(), feature_version=(3, 6))
    with pytest.raises(SyntaxError):  # the control: the parser does refuse newer syntax
        ast.parse("if (x := 1): pass", feature_version=(3, 6))


def test_too_little_space_says_how_much_is_free(setup_env: ModuleType) -> None:
    with pytest.raises(setup_env.SetupError, match=r"10 GB are needed, 2\.5 GB are free\. Move it"):
        setup_env.check_space(Path("/x"), 10, "Move it", disk_usage=lambda path: Usage(0, 0, 2.5e9))
    setup_env.check_space(Path("/x"), 10, "Move it", disk_usage=lambda path: Usage(0, 0, 10e9))


@pytest.mark.slow
def test_a_failing_pip_shows_its_last_lines_and_names_its_log(setup_env: ModuleType, tmp_path: Path) -> None:
    environment = setup_env.Environment(tmp_path)
    environment.python = Path(sys.executable)
    with pytest.raises(setup_env.SetupError, match=re.escape(str(tmp_path / "setup.log"))) as error:
        environment.pip("install", "--no-index", "no-such-package-at-all")
    assert "no-such-package-at-all" in str(error.value)
    assert "no-such-package-at-all" in (tmp_path / "setup.log").read_text()


def test_only_a_finished_set_up_of_the_same_requirements_is_trusted(setup_env: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    assert not setup_env.is_complete(folder)  # half built: no stamp
    (folder / setup_env.STAMP).write_text("{")
    assert not setup_env.is_complete(folder)
    (folder / setup_env.STAMP).write_text(json.dumps({"built_from": setup_env.stamp_value(folder)}))
    assert setup_env.is_complete(folder)
    with open(tmp_path / "requirements" / "dev.txt", "a") as file:
        file.write("another==1\n")
    assert not setup_env.is_complete(folder)


def test_a_half_installed_package_is_installed_again(setup_env: ModuleType, tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.12" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.dist-info" / "RECORD").touch()
    setup_env.create(FakeEnvironment(tmp_path / ".venv", {}))
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]


@pytest.mark.parametrize(
    ("installed", "asked"),
    [
        (None, "torch.txt"),
        ("2.9.1", "torch.txt"),
        ("2.14.1+cu130", "torch.txt"),
        ("2.13.0+cpu", "install torch==2.13.0+cpu torchvision"),
    ],
)
def test_a_recent_torch_of_the_users_own_is_kept(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None, asked: str
) -> None:
    monkeypatch.setattr(setup_env, "check_space", lambda *arguments: None)
    environment = FakeEnvironment(tmp_path, {"torch": installed} if installed else {})
    setup_env.install_torch(environment)
    assert len(environment.asked) == 1 and asked in environment.asked[0]


def test_a_detectron2_of_the_users_own_is_kept_and_said(
    setup_env: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = FakeEnvironment(tmp_path, {})
    setup_env.install_detectron2(own)
    assert own.asked == [] and "your own Detectron2 0.6 at /somewhere: kept" in capsys.readouterr().out
    absent = FakeEnvironment(tmp_path, {}, broken={"detectron2": "ModuleNotFoundError"})
    setup_env.install_detectron2(absent)
    assert len(absent.asked) == 1 and "--require-hashes" in absent.asked[0] and "--no-deps" in absent.asked[0]


def test_opencv_is_swapped_for_its_headless_twin_where_a_library_is_missing(
    setup_env: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    environment = FakeEnvironment(tmp_path, {}, broken={"cv2": error})
    setup_env.install_opencv(environment)
    version = setup_env.pinned("opencv", "opencv-python")
    assert environment.asked[1:] == [
        "uninstall -y opencv-python",
        f"install --force-reinstall --no-deps opencv-python-headless=={version}",
    ]
    assert "libGL.so.1" in capsys.readouterr().out
    works = FakeEnvironment(tmp_path, {"opencv-python": version})
    setup_env.install_opencv(works)
    assert works.asked == []
    other = FakeEnvironment(tmp_path, {}, broken={"cv2": "ImportError: numpy is too old"})
    with pytest.raises(setup_env.SetupError, match="numpy is too old"):
        setup_env.install_opencv(other)


def test_every_direct_requirement_is_pinned() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            assert (
                not line
                or line.startswith("#")
                or re.match(r"[\w.-]+==[\w.]+( --hash=sha256:\w{64}|; python_version .*)?$", line)
            ), line


def test_help_prints_what_the_script_does_and_sets_nothing_up(
    setup_env: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["setup_env.py", "--help"])
    monkeypatch.setattr(setup_env, "set_up", lambda environment: pytest.fail("set-up was started"))
    with pytest.raises(SystemExit) as stop:
        setup_env.main()
    assert stop.value.code == 0 and "make setup" in capsys.readouterr().out and not (tmp_path / ".venv").exists()
