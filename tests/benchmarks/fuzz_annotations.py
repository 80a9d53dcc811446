"""100,000 mutated annotation files, once: the strict readers of COCO, VOC and YOLO give sound data or a UserError.

    python tests/benchmarks/fuzz_annotations.py [--count 100000] [--seed 0] [--formats coco,voc,yolo] [--processes 2]
    python tests/benchmarks/fuzz_annotations.py --case 4711       one case again: the file and what happens
    python tests/benchmarks/fuzz_annotations.py --plant           the control: a reader with a KeyError must be found

Out: counts per format and outcome; exit code 1 with seed and case of every other exception, crash, hang of 5 seconds or
unsound data (tests/transfer/data/annotation_fuzz.py).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.transfer.data.annotation_fuzz import HANG_SECONDS, Finding, fuzz, mutate, read_spec, write_bases
from transfer.data.records import DetectionData

MEMORY = 4 << 30  # more than a process has at its start: what a mutated number may make a reader ask for
SHOWN = 20


def planted_reader(spec: str) -> DetectionData:
    """The control: forgets to check one key of a COCO file."""
    if spec.startswith("coco:"):
        content: Any = None
        try:
            content = json.loads(Path(spec.split(":")[1]).read_bytes())
        except (ValueError, RecursionError):
            return read_spec(spec)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            for image in content["images"]:
                if isinstance(image, dict):
                    image["width"]
    return read_spec(spec)


def work(arguments: argparse.Namespace, number: int, folder: str, state: Any, results: Any) -> None:
    """One process: every n-th case. state: [case that runs, when it began]."""
    _limit_memory()
    root = Path(folder) / str(number)
    tempfile.tempdir = folder
    bases = write_bases(root, arguments.formats.split(","))

    def begin(case: int) -> None:
        state[0], state[1] = case, time.monotonic()

    cases = range(number, arguments.count, arguments.processes)
    read = planted_reader if arguments.plant else read_spec
    results.put(fuzz(bases, cases, seed=arguments.seed, read=read, begin=begin))
    state[1] = 0.0


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def run(arguments: argparse.Namespace, folder: str) -> tuple[Counter[str], list[Finding]]:
    """All cases; a process that dies, or hangs where Python cannot be interrupted, is a finding."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    states = [context.Array("d", [0.0, 0.0], lock=False) for _ in range(arguments.processes)]
    workers = [
        context.Process(target=work, args=(arguments, number, folder, state, results))
        for number, state in enumerate(states)
    ]
    for worker in workers:
        worker.start()
    outcomes: Counter[str] = Counter()
    findings: list[Finding] = []
    open_workers = dict(enumerate(workers))
    while open_workers:
        time.sleep(0.2)
        while not results.empty():
            counted, found = results.get()
            outcomes += counted
            findings += found
        for number, worker in list(open_workers.items()):
            case, began = int(states[number][0]), states[number][1]
            if not worker.is_alive():
                worker.join()
                del open_workers[number]
                if worker.exitcode:
                    findings.append(Finding(case, "", "crash", f"exit code {worker.exitcode}"))
            elif began and time.monotonic() - began > 4 * HANG_SECONDS:
                worker.kill()
                findings.append(Finding(case, "", "hang", "not to be interrupted"))
    while not results.empty():
        counted, found = results.get()
        outcomes += counted
        findings += found
    return outcomes, sorted(findings, key=lambda finding: finding.case)


def show(arguments: argparse.Namespace, folder: str) -> int:
    """One case: what is read, and what happens."""
    bases = write_bases(Path(folder) / "0", arguments.formats.split(","))
    base, path, content = mutate(bases, arguments.case, arguments.seed)
    print(f"{base.name}: {path.relative_to(base.folder)}\n{content[:4000]!r}")
    outcomes, findings = fuzz(bases, range(arguments.case, arguments.case + 1), seed=arguments.seed)
    print(dict(outcomes), *(finding.detail for finding in findings), sep="\n")
    return 1 if findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default="coco,voc,yolo")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", type=int)
    parser.add_argument("--plant", action="store_true", help="the control")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if arguments.case is not None:
            return show(arguments, folder)
        start = time.perf_counter()
        outcomes, findings = run(arguments, folder)
    print(f"{sum(outcomes.values())} cases of seed {arguments.seed} in {time.perf_counter() - start:.0f} s")
    for name, count in sorted(outcomes.items()):
        print(f"  {name}: {count}")
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.outcome, finding.detail.strip().rpartition("\n")[2]), []).append(finding)
    for members in alike.values():
        first = members[0]
        numbers = ", ".join(str(finding.case) for finding in members[:SHOWN])
        print(
            f"{len(members)} x {first.outcome}, seed {arguments.seed}, cases {numbers} ({first.base} ...)\n{first.detail}"
        )
    print(f"broke the promise: {len(findings)}")
    return 1 if findings or sum(outcomes.values()) != arguments.count else 0


if __name__ == "__main__":
    sys.exit(main())
