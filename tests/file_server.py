"""A web server of one folder on this machine, with the faults of real ones."""

from __future__ import annotations

import contextlib
import http.server
import threading
from pathlib import Path


class FileServer:
    """Serves `root` until `close`.

    ranges: answers ranged requests. cut: how many of the next answers end early, after `share` of their bytes. fail: how many of
    the next requests get 503. length: tells how long an answer is. etag: version of all files. if_range: heeds the header. replaced: path -> bytes in place of the file's.
    requests: (path, Range) of all that came; sent: bytes of bodies, by path.
    """

    def __init__(
        self,
        root: Path,
        *,
        ranges: bool = True,
        cut: int = 0,
        fail: int = 0,
        etag: str | None = None,
        if_range: bool = True,
        length: bool = True,
    ) -> None:
        self.root, self.ranges, self.cut, self.fail, self.etag, self.share = root, ranges, cut, fail, etag, 0.5
        self.if_range, self.length = if_range, length
        self.replaced: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """No more answers."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, asked: http.server.BaseHTTPRequestHandler) -> None:
        """One GET."""
        wanted = asked.headers.get("Range")
        self.requests.append((asked.path, wanted))
        path = self.root / asked.path.strip("/")
        if not path.is_file():
            asked.send_error(404)
            return
        if self.fail > 0:
            self.fail -= 1
            asked.send_error(503)
            return
        content = self.replaced.get(asked.path, None) or path.read_bytes()
        changed = self.if_range and asked.headers.get("If-Range") not in (None, self.etag)
        first, last = 0, len(content) - 1
        if wanted and self.ranges and not changed:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
            if first > last:
                asked.send_response(416)
                asked.send_header("Content-Range", f"bytes */{len(content)}")
                asked.send_header("Content-Length", "0")
                asked.end_headers()
                return
            asked.send_response(206)
            asked.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            asked.send_response(200)
        if self.length:
            asked.send_header("Content-Length", str(last - first + 1))
        if self.etag:
            asked.send_header("ETag", self.etag)
        asked.end_headers()
        body = content[first : last + 1]
        if self.cut > 0 and len(body) > 2000:
            self.cut -= 1
            body = body[: int(self.share * len(body))]
        self.sent[asked.path] = self.sent.get(asked.path, 0) + len(body)
        with contextlib.suppress(ConnectionError):  # who asked has seen enough
            asked.wfile.write(body)
