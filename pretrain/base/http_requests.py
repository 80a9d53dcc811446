"""Requests to http(s) servers: a password from ~/.netrc, a time limit, and patience with servers and lines that fail.

In: an address and headers. Out: an open response, or what `with_patience` got from it; RequestError where trying again does not
help. Proxies are those of the environment (http_proxy, https_proxy, no_proxy), as everywhere in urllib.
"""

from __future__ import annotations

import base64
import http.client
import netrc
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pretrain.base.errors import DataError

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5  # doubled after each attempt
LONGEST_PAUSE_SECONDS = 60.0  # that a server may ask for (Retry-After)
TIMEOUT_SECONDS = 60
BLOCK = 1 << 20  # bytes that are read and written at a time
USER_AGENT = "infomin-transfer"  # some servers refuse urllib's own
T = TypeVar("T")


class RequestError(DataError):
    """The address, or its server, fails for good."""


class CutError(Exception):
    """An answer that is not whole: asked for again."""


def version_of(response: http.client.HTTPResponse) -> str:
    """What tells one content of an address from another; empty where the server does not say."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def request(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """GET `url`, which the caller has found to be http or https, so that no local file is opened."""
    asked = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, **headers})
    known = _login(urllib.parse.urlsplit(url).hostname)
    if known is not None:
        word = base64.b64encode(":".join(known).encode()).decode()
        asked.add_unredirected_header("Authorization", f"Basic {word}")  # another server does not get it
    response: http.client.HTTPResponse = urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS)
    return response


def _login(host: str | None) -> tuple[str, str] | None:
    """Name and password of ~/.netrc, or of the file that NETRC names. Raises DataError for one that cannot be read."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).authenticators(host or "")
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read for the password of {host} ({type(error).__name__})") from error
    return None if found is None else (found[0], found[2] or "")


def with_patience(url: str, attempt: Callable[[], T], *, missing: str, progress: Callable[[], int] = lambda: 0) -> T:
    """The result of `attempt`, tried again where the server or the line failed: ATTEMPTS times in a row without progress.

    missing: what to pass where the server has nothing at this address. progress: a number; attempts are counted anew when it
    grows (19 GB come through although the line is cut every minute). Raises RequestError.
    """
    failed, most = 0, progress()
    while True:
        asked_pause = 0.0
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            asked_pause = _seconds(error.headers.get("Retry-After"))
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise RequestError(f"{url}: {reason}; {_what_to_do(error.code, missing)}") from error
        except (http.client.InvalidURL, ValueError) as error:
            raise RequestError(
                f"{url}: not an address ({error}); expected http://SERVER/PATH or http://SERVER:PORT/PATH, with %20 for a space"
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, CutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        now = progress()
        failed, most = (1, now) if now > most else (failed + 1, most)
        if failed == ATTEMPTS:
            raise RequestError(f"{url}: {reason}, {ATTEMPTS} times; is the server there?")
        time.sleep(max(asked_pause, FIRST_PAUSE_SECONDS * 2 ** (failed - 1)))


def _seconds(text: str | None) -> float:
    """Of Retry-After, where it is a number."""
    return min(float(text), LONGEST_PAUSE_SECONDS) if text is not None and text.isdigit() else 0.0


def _what_to_do(code: int, missing: str) -> str:
    if code in (401, 403):
        return "name and password for it are looked for in ~/.netrc"
    return missing
