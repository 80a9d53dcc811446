"""Set the project up: .venv with the pinned requirements, Detectron2 and the project itself.

`make setup` runs this script; another interpreter: `make setup PYTHON=python3.12`. It reads requirements/*.txt and
pyproject.toml, needs the standard library only, and ends with exit code 2 and what to do where something is missing. The
second run takes no time.
"""

# Written so that Python 3.6 still parses it: a too old Python must reach the message, not a SyntaxError.

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
OLDEST, NEWEST = (3, 10), (3, 14)  # requirements/torch.txt: torch 2.14.1 has builds for these
OLDEST_TORCH = (2, 10)
OTHERS = ("base", "dev", "export")
STAMP, LOG = "setup-complete.json", "setup.log"
PIP_LINES = 8  # of its output, shown when it fails
CUDA_BUILD = platform.system() == "Linux" and platform.machine() == "x86_64"
SPACE_GB = 10 if CUDA_BUILD else 3  # Linux, measured: 6.2 GB installed + 3 GB of wheels while pip unpacks them
FREE_SPACE = "Free some space, or clone the project on another disk."
SMOKE_TEST = """
import cv2, detectron2, numpy, torch, torchvision
import detectron2.engine, detectron2.evaluation, detectron2.model_zoo
import pretrain, transfer
names = dict(torch=torch, torchvision=torchvision, detectron2=detectron2, numpy=numpy, opencv=cv2)
print(", ".join(f"{name} {module.__version__}" for name, module in names.items()))
"""


class SetupError(Exception):
    """What is wrong and what to do about it."""


def runs(python: str) -> bool:
    """True for a Python on the PATH that starts (version managers leave names there that do not)."""
    return bool(shutil.which(python)) and subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0


def check_python(version: "tuple[int, ...]", runs=runs) -> None:
    """Raise SetupError unless `version` is one that torch has builds for; names a fitting Python on the PATH."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return
    fitting = [name for name in (f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)) if runs(name)]
    cure = f"Type: make setup PYTHON={fitting[0]}" if fitting else "Install one, then: make setup PYTHON=python3.12"
    found = ".".join(map(str, version[:3]))
    raise SetupError(
        f"expected Python 3.{OLDEST[1]} to 3.{NEWEST[1]} (torch has no other builds), found {found}. {cure}"
    )


def check_space(folder: Path, needed_gb: float, hint: str, disk_usage=shutil.disk_usage) -> None:
    """Raise SetupError when the disk of `folder` has less than `needed_gb` GB free."""
    free = disk_usage(str(folder)).free / 1e9
    if free < needed_gb:
        raise SetupError(f"{folder}: about {needed_gb:.0f} GB are needed, {free:.1f} GB are free. {hint}")


class Environment:
    """One virtual environment: runs its Python and its pip, and keeps the output of pip in a log."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python, self.log = folder, folder / "bin" / "python", folder / LOG
        drop = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
        self.variables = {name: value for name, value in os.environ.items() if name not in drop}

    def run(self, code: str) -> "tuple[bool, str]":
        """Run `code` in the environment's Python, outside the checkout -> (succeeded, output or last error line)."""
        command = [str(self.python), "-c", code]
        try:
            done = subprocess.run(command, cwd=str(self.folder), env=self.variables, capture_output=True, text=True)
        except OSError as error:
            return False, str(error)
        if done.returncode == 0:
            return True, done.stdout.strip()
        return False, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]

    def pip(self, *arguments: str) -> None:
        """Run pip; large downloads are shown. Raises SetupError with what to do and the log's path."""
        command = [str(self.python), "-m", "pip", *arguments]
        lines = []
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        settings = {"cwd": str(ROOT), "env": self.variables, "text": True, "errors": "replace"}
        process = subprocess.Popen(command, **pipes, **settings)
        with process, open(str(self.log), "a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                large = re.match(r"\s*Downloading ([^-\s]+-[^-\s]+)-.*\((\d\d[.\d]* [MG]B)\)", line)
                if large:
                    say(f"      fetching {large.group(1)} ({large.group(2)})")
        if process.returncode != 0:
            shown = "".join(f"  {line}" for line in lines[-PIP_LINES:])
            raise SetupError(f"pip failed; its last lines:\n{shown.rstrip()}\n  all of its output: {self.log}")

    def version(self, package: str) -> "str | None":
        """Version of an installed distribution, None without it."""
        found, version = self.run(f"import importlib.metadata as m; print(m.version({package!r}))")
        return version if found else None


def say(text: str) -> None:
    """Print one line at once, also into a pipe."""
    print(text, flush=True)


def listed(*names: str) -> "list[str]":
    """pip's arguments for requirements files."""
    return [part for name in names for part in ("-r", str(REQUIREMENTS / f"{name}.txt"))]


def pinned(name: str, package: str) -> str:
    """The version that requirements/NAME.txt pins for a package."""
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return re.search(rf"^{re.escape(package)}==(\S+)", text, re.M).group(1)


def stamp_value(folder: Path) -> str:
    """Hash of what the environment is built from; another place, Python or requirement gives another one."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in [*sorted(REQUIREMENTS.glob("*.txt")), ROOT / "pyproject.toml", Path(__file__), folder / "pyvenv.cfg"]:
        digest.update(path.read_bytes() if path.is_file() else b"absent")
        digest.update(b"\0")
    return digest.hexdigest()


def is_complete(folder: Path) -> bool:
    """True when the last set-up of `folder` ran to its end with the present requirements."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return (folder / "bin" / "python").exists() and stamp == {"built_from": stamp_value(folder)}


def create(environment: Environment) -> None:
    """A .venv with a working Python and pip: created, or the existing one kept and rid of half-installed packages."""
    folder = environment.folder
    if not environment.run("pass")[0]:
        if (folder / "pyvenv.cfg").exists():
            say("      its Python does not run: made anew")
        check_space(ROOT, SPACE_GB, FREE_SPACE)
        command = [sys.executable, "-m", "venv", "--clear", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            short = ".".join(map(str, sys.version_info[:2]))
            reason = (done.stdout.strip().splitlines() or ["no output"])[0]
            hint = f"On Debian and Ubuntu: sudo apt install python{short}-venv, then again"
            raise SetupError(f"Python {short} cannot create a virtual environment ({reason}). {hint}")
    for metadata in folder.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").is_file():  # pip writes RECORD last: this package was cut off half-way
            say(f"      {metadata.stem} was only half installed: again")
            shutil.rmtree(str(metadata))
    if not environment.run("import pip")[0] and not environment.run("import ensurepip; ensurepip.bootstrap()")[0]:
        raise SetupError(f"{folder} has no pip. Start afresh: rm -rf {folder}, then again")


def install_torch(environment: Environment) -> None:
    """The pinned torch and torchvision, unless a torch >= 2.10 is there already: that one is kept, which is printed."""
    version = environment.version("torch")
    if version is None or tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH:
        check_space(ROOT, SPACE_GB, FREE_SPACE)
        check_space(Path(tempfile.gettempdir()), SPACE_GB / 3, "Free some space, or set TMPDIR to a folder elsewhere.")
        environment.pip("install", *listed("torch"), "-c", str(REQUIREMENTS / "base.txt"))
    elif version.split("+")[0] == pinned("torch", "torch"):
        environment.pip("install", *listed("torch"))  # completes what an interrupted run left out
    else:
        say(f"      torch {version} is there already: kept")
        environment.pip("install", f"torch=={version}", "torchvision")


def install_opencv(environment: Environment) -> None:
    """opencv-python; where a system library is missing (libGL), its headless twin of the same version."""
    works, error = environment.run("import cv2")
    version = pinned("opencv", "opencv-python")
    if works and environment.version("opencv-python") in (version, None):
        return
    if works or environment.version("opencv-python-headless") is None:
        environment.pip("install", *listed("opencv"))
        works, error = environment.run("import cv2")
        if works:
            return
        if ".so" not in error:  # not a system library
            raise SetupError(f"opencv-python is installed but does not load: {error}")
    say(f"      {error}")
    say("      so opencv-python is swapped for opencv-python-headless, the same without windows")
    environment.pip("uninstall", "-y", "opencv-python")
    environment.pip("install", "--force-reinstall", "--no-deps", f"opencv-python-headless=={version}")


def install_detectron2(environment: Environment) -> None:
    """The hash-pinned wheel, unless `import detectron2` works: a build of the user's own is kept, which is printed."""
    works, found = environment.run("import detectron2; print(detectron2.__version__, 'at', detectron2.__path__[0])")
    ours = environment.version("sal-detectron2")
    if works and ours is None:
        say(f"      your own Detectron2 {found}: kept")
    if works and ours in (None, pinned("detectron2", "sal-detectron2")):
        return
    target = environment.run("import sysconfig; print(sysconfig.get_path('purelib'))")[1]
    wheel_tag = ("--only-binary=:all:", "--python-version", "3.10", "--implementation", "cp")
    where = ("--upgrade", "--target", target)
    environment.pip("install", "--no-deps", *wheel_tag, "--require-hashes", *where, *listed("detectron2"))


def set_up(environment: Environment) -> None:
    """All steps in order, each of which keeps what is there already; the stamp comes last."""
    with contextlib.suppress(FileNotFoundError):
        (environment.folder / STAMP).unlink()
    steps = (
        (f"virtual environment {environment.folder}", lambda: create(environment)),
        ("pip and setuptools", lambda: environment.pip("install", *listed("installer"))),
        (f"torch{' (some 3 GB to fetch)' if CUDA_BUILD else ''}", lambda: install_torch(environment)),
        # No build isolation: three pure-Python source packages are built with the pinned setuptools, not the newest.
        ("other requirements", lambda: environment.pip("install", "--no-build-isolation", *listed(*OTHERS))),
        ("OpenCV", lambda: install_opencv(environment)),
        ("Detectron2", lambda: install_detectron2(environment)),
        ("this project", lambda: environment.pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))),
    )
    for number, (title, step) in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {title}")
        start = time.monotonic()
        step()
        if time.monotonic() - start > 5:
            say(f"      {time.monotonic() - start:.0f} s")
    works, output = environment.run(SMOKE_TEST)
    if not works:
        raise SetupError(f"all is installed but does not load: {output}\n  Start afresh: rm -rf .venv, then make setup")
    temporary = environment.folder / f"{STAMP}.tmp"
    temporary.write_text(json.dumps({"built_from": stamp_value(environment.folder)}))
    temporary.replace(environment.folder / STAMP)
    say(f"ready: {output}")


@contextlib.contextmanager
def only_one(lock: Path):
    """Hold `lock` for the block; a second set-up of the same checkout waits for the first."""
    import fcntl  # absent on Windows, which main() has refused by now

    with open(str(lock), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this folder is running: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Exit code 0 when .venv is ready, 2 when something is missing, 130 after Ctrl-C."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    environment = Environment(ROOT / ".venv")
    try:
        check_python(sys.version_info)
        if os.name != "posix":
            raise SetupError("expected Linux or macOS, found Windows: use the Windows Subsystem for Linux (WSL)")
        with only_one(ROOT / ".setup.lock"):
            if not is_complete(environment.folder):
                set_up(environment)
    except (SetupError, PermissionError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; `make setup` goes on where it stopped\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
