"""Another name of tools/compare.py, for a study file of configs/study/.

python tools/study.py --config-file configs/study/demo.yaml --output-dir runs/demo
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`


def command() -> None:
    """The console script."""
    script = Path(__file__).with_name("compare.py")
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    command()
