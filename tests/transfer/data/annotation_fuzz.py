"""Mutated annotation files: the readers' promise is data that are sound or a UserError, for any content and within seconds.

In: a seed and case numbers. Case i of a seed is always the same mutation of the same file, whatever runs before it, so that a
finding is run again by its number. Out: outcomes. Mutations are of bytes (flipped, cut, inserted, another encoding) and of
structure (values of another type, keys and entries removed, doubled or renamed, extremes), one to four a case.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
import re
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.errors import UserError
from tests.transfer.data import exporters
from transfer.data.ground_truth import ground_truth_json
from transfer.data.records import DetectionData
from transfer.data.spec import parse_spec, read_data

Read = Callable[[str], DetectionData]  # SPEC -> data
BASES = {
    "coco": ("coco_official", "roboflow_coco", "via_coco", "darwin_coco_masks", "label_studio_coco_windows", "crowdhuman_coco",
             "cvat_coco_brush_some", "scale_coco_uuid"),
    "voc": ("voc_official", "cvat_voc", "voc_parts", "vott_voc", "voc_without_size", "voc_over_the_border"),
    "yolo": ("ultralytics_yolo", "ultralytics_yolo_polygons", "roboflow_yolo", "cvat_ultralytics_yolo", "darknet_yolo"),
}  # fmt: skip
TEXTS = (".json", ".xml", ".txt", ".yaml", ".data", ".names")
HANG_SECONDS = 5.0
LONGEST_DETAIL = 2000
SOUND, REFUSED = "accepted", "refused"

# Values that fields get: other types, extremes, and what is nearly right.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 0.5, 1.5, 80.0, 1e308, -1e308, 5e-324, 2**31, 2**63, 10**400, float("nan"), float("inf"),
    "", " ", "1", "1.0", "-3", "0x10", "cat", "..", "../..", "/x", "/etc/passwd", "1.jpg", "2.jpg", "a\0b", "\ud800", "é" * 300,
    "%2e%2e/1.jpg", "C:\\x\\1.jpg", [], [[]], [None], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]], [[1e30] * 6],
    {}, {"counts": "0", "size": [1, 1]}, {"counts": [0, 2**40], "size": [80, 100]}, {"counts": "o" * 50, "size": [80, 100]},
    {"id": 1, "name": "cat"}, {"id": 1},
)  # fmt: skip
WORDS = (
    b"", b"0", b"-1", b"1e309", b"nan", b"inf", b"1e5", b"0.5", b"99999999999999999999", b"True", b"..", b"../../x", b"/x", b"\0",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b"\xe2\x80\xa8", b"1.jpg", b"images", b"cat", b"\xf0\x9f\x90\xb1", b"{", b"[", b"<",
    b"&amp;", b"&x;", b"'", b'"', b": ", b"- ", b"!!python/object:os.system", b"*a", b"&a", b"<<: *a", b"%", b"#", b"\t",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A case that broke the promise."""

    case: int
    base: str
    outcome: str
    detail: str


class _HangError(BaseException):
    """Not an Exception: a reader that catches everything must not swallow it."""


@dataclass(frozen=True)
class Base:
    """A sound data set on disk and its text files in memory."""

    name: str
    spec: str
    folder: Path
    files: dict[Path, bytes]


def write_bases(folder: Path, formats: Sequence[str]) -> list[Base]:
    """The data sets that are mutated."""
    kinds = {kind.name: kind for kind in exporters.KINDS}
    bases = []
    for name in (name for kind in formats for name in BASES[kind]):
        root = folder / name
        spec = kinds[name].write(root)
        files = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.suffix in TEXTS}
        bases.append(Base(name, spec, root, files))
    return bases


def read_spec(spec: str) -> DetectionData:
    """The strict reader, as train_net calls it."""
    return read_data(parse_spec(spec))


def fuzz(
    bases: Sequence[Base],
    cases: Iterator[int] | range,
    *,
    seed: int,
    read: Read = read_spec,
    hang_seconds: float = HANG_SECONDS,
    begin: Callable[[int], None] = lambda case: None,
) -> tuple[Counter[str], list[Finding]]:
    """Outcomes and findings of some cases. begin: called with each case's number before it runs."""
    outcomes: Counter[str] = Counter()
    findings: list[Finding] = []
    for case in cases:
        begin(case)
        base, path, content = mutate(bases, case, seed)
        path.write_bytes(content)
        try:
            with _time_limit(hang_seconds):
                outcome, detail = _outcome(base, read)
        finally:
            path.write_bytes(base.files[path])
        outcomes[f"{base.spec.partition(':')[0]} {outcome}"] += 1
        if outcome not in (SOUND, REFUSED):
            findings.append(Finding(case, f"{base.name}: {path.relative_to(base.folder)}", outcome, _shortened(detail)))
    return outcomes, findings


def mutate(bases: Sequence[Base], case: int, seed: int) -> tuple[Base, Path, bytes]:
    """The data set, file and new content of a case."""
    rng = random.Random(f"{seed} {case}")
    base = rng.choice(bases)
    path = rng.choice(list(base.files))
    content = base.files[path]
    if rng.random() < 0.6:
        content = _structure(content, path.suffix, rng)
    if rng.random() < 0.55 or content == base.files[path]:
        content = _bytes(content, rng)
    return base, path, content


def _outcome(base: Base, read: Read) -> tuple[str, str]:
    try:
        data = read(base.spec)
        # The paths of a YOLO data file are the user's own, and may lead anywhere.
        trouble = unsound(data, None if base.spec.startswith("yolo:") else base.folder)
    except UserError as error:
        return (REFUSED, "") if str(error).strip() else ("refused without words", "")
    except _HangError:
        return "hang", traceback.format_exc(limit=-6)
    except MemoryError:
        return "out of memory", traceback.format_exc(limit=-3)
    except Exception as error:
        return f"other exception: {type(error).__name__}", traceback.format_exc(limit=-4)
    return (SOUND, "") if trouble is None else ("unsound data", trouble)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_DETAIL else f"{text[: LONGEST_DETAIL // 2]} ... {text[-LONGEST_DETAIL // 2 :]}"


def unsound(data: DetectionData, folder: Path | None) -> str | None:
    """What an accepted data set breaks: boxes inside images, known classes, files inside `folder`, a file to evaluate with."""
    identifiers = [record["image_id"] for record in data.records]
    if len(set(identifiers)) < len(identifiers):
        return "image ids are not unique"
    for record in data.records:
        width, height = record["width"], record["height"]
        file = Path(record["file_name"]).resolve()
        if folder is not None and not file.is_relative_to(folder.resolve()):
            return f"{record['file_name']} leaves the folder"
        for thing in record["annotations"]:
            x1, y1, x2, y2 = thing["bbox"]
            if not all(map(math.isfinite, thing["bbox"])) or not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                return f"box {thing['bbox']} in {width} x {height}"
            if not 0 <= thing["category_id"] < len(data.class_names):
                return f"category {thing['category_id']} of {len(data.class_names)}"
    json.dumps(ground_truth_json(data), allow_nan=False).encode()
    return None if data.num_objects else "no object"


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place:]
            case 2:
                del data[place : place + rng.choice((1, 2, 5, 40))]
            case 3:
                data[place:place] = rng.choice(WORDS)
            case 4:
                data[place:place] = data[place : place + rng.choice((1, 10, 200))]
            case 5:
                text = data.decode("utf-8", errors="replace")
                data = bytearray(
                    text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp037")), errors="replace")
                )
            case 6:
                data[place:place] = rng.choice((b"[", b"{", b'{"a":', b"<a>", b"- ")) * rng.choice((3, 2000, 50_000))
            case 7:
                spans = [span.span() for span in re.finditer(rb"[-+\w.]+", data)]
                if spans:
                    start, end = rng.choice(spans)
                    data[start:end] = rng.choice(WORDS)
            case _:
                data = bytearray(rng.choice((b"", b"\n", bytes(data) * 2, bytes(data[::-1]), rng.randbytes(200))))
    return bytes(data)


def _structure(content: bytes, suffix: str, rng: random.Random) -> bytes:
    if suffix == ".json":
        tree = json.loads(content)
        for _ in range(rng.choice((1, 1, 2, 4))):
            tree = _mutated_json(tree, rng)
        return json.dumps(tree).encode()
    return _mutated_lines(content, rng) if suffix != ".xml" else _mutated_xml(content, rng)


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))  # the next mutation may change it


def _mutated_json(tree: Any, rng: random.Random) -> Any:
    """One value of the tree changed, at any depth."""
    node, place, holder = tree, None, None
    while isinstance(node, (dict, list)) and node and (holder is None or rng.random() < 0.85):
        holder, place = node, rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = holder[place]
    if holder is None:
        return _value(rng)
    action = rng.randrange(10)
    if action < 5 or not isinstance(holder, (dict, list)):
        holder[place] = _value(rng)
    elif action == 5:
        del holder[place]
    elif action == 6 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), node)
    elif action == 7:
        holder[place] = [node] if rng.random() < 0.5 else str(node)
    elif action == 8 and isinstance(node, (int, float)) and not isinstance(node, bool) and abs(node) < 1e300:
        holder[place] = rng.choice((-node, node + 1, node - 1, node * 10, node / 3, float(node), str(node), node * 1e9))
    elif isinstance(holder, dict):
        holder[rng.choice(("id", "name", "bbox", "image_id", "file_name", "x"))] = holder.pop(place)
    else:
        rng.shuffle(holder)
    return tree


def _mutated_xml(content: bytes, rng: random.Random) -> bytes:
    """Elements removed, doubled, renamed, or given another text."""
    text = content.decode()
    for _ in range(rng.choice((1, 1, 2, 4))):
        leaves = list(re.finditer(r"<(\w+)>([^<]*)</\1>", text))
        if not leaves:
            return text.encode()
        leaf = rng.choice(leaves)
        value = str(rng.choice(VALUES)).encode("utf-8", "replace").decode().replace("<", "")
        match rng.randrange(7):
            case 0 | 1 | 2:
                new = f"<{leaf[1]}>{value}</{leaf[1]}>"
            case 3:
                new = ""
            case 4:
                new = leaf[0] * 2
            case 5:
                new = f"<x>{leaf[2]}</x>"
            case _:
                new = f"<{leaf[1]}><x>{leaf[0]}</x></{leaf[1]}>"
        text = text[: leaf.start()] + new + text[leaf.end() :]
    return text.encode()


def _mutated_lines(content: bytes, rng: random.Random) -> bytes:
    """Lines and words of a label file, a split or a data file removed, doubled, exchanged or replaced."""
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not lines:
            break
        place = rng.randrange(len(lines))
        words = lines[place].split(" ")
        word = rng.randrange(len(words))
        match rng.randrange(8):
            case 0:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[place])
            case 2:
                rng.shuffle(lines)
            case 3:
                del words[word]
            case 4:
                words.insert(word, rng.choice(words))
            case 5:
                words[word] = str(rng.choice(VALUES)).encode("utf-8", "replace").decode()
            case 6:
                words[word] = f"{rng.choice(('-', '1', '../', '/x/'))}{words[word]}"
            case _:
                words[word] = words[word][::-1]
        if place < len(lines):
            lines[place] = " ".join(words)
    return "\n".join([*lines, ""]).encode()
