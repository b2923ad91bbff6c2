"""Fetches public FOVs of the Human Protein Atlas (proteinatlas.org) by their image ids.

    python -m beam_jobs.fetch_hpa --ids=ids.txt --out_dir=images

An id is <antibody>_<plate>_<well>_<field>, as 10005_921_B9_1; 10005/921_B9_1 and the whole address
https://images.proteinatlas.org/10005/921_B9_1 mean the same. --ids takes a file with an id a line, or ids with commas between.
Writes, to a folder or a URL (s3://, gs://), <id>_red.jpg, _green, _blue and _yellow, which `beam_jobs.convert --images`
reads; --format=tif fetches the lossless originals (several times as large; the Atlas does not have them of every FOV).

One request at a time and at most --max_rate a second: the server belongs to others too. Stopped in the middle? The same
command goes on. fetched.jsonl has a line a file: address, size, sha256. A FOV that cannot be had does not stop the others;
they are listed at the end, with status 1. The images are under the Atlas's licence, CC BY-SA: say where they are from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence

import tqdm
from absl import flags

from beam_jobs import command
from beam_jobs.fetch_notes import NOTES_NAME, FetchNotes
from hpa_proto import folder_lock, schema, storage
from hpa_proto.errors import ConfigError

BASE_URL = "https://images.proteinatlas.org"
_ID = re.compile(r"([0-9]+)[/_]([A-Za-z0-9]+(?:_[A-Za-z0-9]+)+)")
_TIMEOUT_SEC = 60
_LONGEST_WAIT_SEC = 120.0
# FOVs in turn that a failing server may cost a minute each.
_MAX_IN_VAIN = 3
# The server's bad moment, or too many requests; anything else will not get better by asking again.
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
# How a file of each format is asked for, and what it starts and ends with.
_SUFFIXES = {"jpg": "jpg", "tif": "tif.gz"}
_STARTS = {"jpg": (b"\xff\xd8",), "tif": (b"II", b"MM")}
_JPEG_END = b"\xff\xd9"


@dataclasses.dataclass(frozen=True)
class FetchConfig:
    """What to fetch.

    Attributes:
      ids: image ids in any of their forms.
      out_dir: folder or fsspec URL.
      base_url: of the server; a FOV lies at <base_url>/<antibody>/<plate>_<well>_<field>_<channel>.<format>.
      image_format: "jpg" or "tif".
      max_rate: requests a second, at most.
      num_tries: of a file, while the server's answer says that it may get better.
      first_wait_sec: before the second try; twice as long before each further one.
    """

    ids: tuple[str, ...]
    out_dir: str
    base_url: str = BASE_URL
    image_format: str = "jpg"
    max_rate: float = 2.0
    num_tries: int = 6
    first_wait_sec: float = 2.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("https://", "http://")):
            raise ConfigError(f"--base_url={self.base_url}: give an http:// or https:// address")
        if self.image_format not in _SUFFIXES:
            raise ConfigError(f"--format={self.image_format}: choose one of {', '.join(_SUFFIXES)}")
        if not self.max_rate > 0 or self.num_tries < 1:
            raise ConfigError("--max_rate must be over 0, --num_tries at least 1")
        if not self.ids:
            raise ConfigError("--ids: no id")


@dataclasses.dataclass(frozen=True)
class FetchResult:
    """What was done.

    Attributes:
      num_fetched: files fetched now.
      num_bytes: of these.
      num_there: files that were there already.
      failures: FOV id -> why it could not be had.
    """

    num_fetched: int
    num_bytes: int
    num_there: int
    failures: dict[str, str]


class _FetchError(Exception):
    """A file that cannot be had."""


class _ServerError(_FetchError):
    """A file that could not be had now, however often it was asked for."""


def run(config: FetchConfig) -> FetchResult:
    """Fetches what is not there yet.

    Raises:
      ConfigError: an id that is none, or another job fetches to the same URL.
      OSError: no room, no right to write, or a server that fails for several FOVs in turn.
    """
    fovs = dict(parse_id(text) for text in config.ids)
    # On a disk two jobs may append to the same notes.
    with folder_lock.hold(config.out_dir) if storage.is_url(config.out_dir) else contextlib.nullcontext():
        return _fetch_missing(config, fovs)


def _fetch_missing(config: FetchConfig, fovs: dict[str, str]) -> FetchResult:
    notes = FetchNotes(config.out_dir)
    failures: dict[str, str] = {}
    num_fetched = num_bytes = num_there = num_in_vain = 0
    clock = _Clock(config.max_rate)
    with notes.adding() as add_note:
        for fov_id, place in tqdm.tqdm(fovs.items(), desc="fetch", unit="FOV", disable=not sys.stderr.isatty()):
            for channel in schema.CHANNELS:
                name = f"{fov_id}_{channel}.{config.image_format}"
                if notes.has(name):
                    num_there += 1
                    continue
                url = f"{config.base_url.rstrip('/')}/{place}_{channel}.{_SUFFIXES[config.image_format]}"
                try:
                    data = _fetch(url, config, clock)
                except _FetchError as error:
                    # A FOV without one of its channels is of no use: its others are not asked for.
                    failures[fov_id] = str(error)
                    num_in_vain = num_in_vain + 1 if isinstance(error, _ServerError) else 0
                    break
                storage.write_bytes(storage.join(config.out_dir, name), data)
                add_note({"name": name, "url": url, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
                num_fetched += 1
                num_bytes += len(data)
                num_in_vain = 0
            if num_in_vain == _MAX_IN_VAIN:
                raise OSError(f"the server fails: {failures[fov_id]}; the same command goes on from here")
    return FetchResult(num_fetched, num_bytes, num_there, failures)


def parse_id(text: str) -> tuple[str, str]:
    """Reads an image id in any of its forms: (FOV id, its place on the server).

    Raises:
      ConfigError: it is none.
    """
    token = text.strip()
    # Of an address only the last two parts count: hosts and folders changed with the Atlas's versions.
    if storage.is_url(token):
        token = "/".join(token.rstrip("/").split("/")[-2:])
    match = _ID.fullmatch(token)
    if match is None:
        raise ConfigError(f"--ids: {text!r} is no image id, <antibody>_<plate>_<well>_<field> as 10005_921_B9_1")
    antibody, field = match.groups()
    return f"{antibody}_{field}", f"{antibody}/{field}"


def read_ids(text: str) -> tuple[str, ...]:
    """Reads --ids: a file, or its URL, with an id a line, or ids with commas between, which may be http addresses.

    Raises:
      ConfigError: the file is no text.
      OSError: it is not readable.
    """
    if os.path.isfile(text) or (storage.is_url(text) and not text.startswith("http")):
        try:
            lines = storage.read_text(text).splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(f"--ids={text}: no text file ({error}); give one with an id a line") from error
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(token.strip() for token in text.split(",") if token.strip())


class _Clock:
    """Keeps requests apart."""

    def __init__(self, max_rate: float):
        self._interval_sec = 1 / max_rate
        self._next_sec = 0.0

    def wait(self) -> None:
        now = time.monotonic()
        if now < self._next_sec:
            time.sleep(self._next_sec - now)
        self._next_sec = time.monotonic() + self._interval_sec


def _fetch(url: str, config: FetchConfig, clock: _Clock) -> bytes:
    """Returns a whole file as it is to be stored.

    Raises:
      _FetchError: the server does not have it or sends something else.
      _ServerError: it fails again and again.
    """
    reason = ""
    for wait_sec in _waits(config):
        clock.wait()
        asked_wait_sec = 0.0
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "hpa-single-cell (beam_jobs.fetch_hpa)"})
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SEC) as response:
                return _unpack(response.read(), url, config.image_format)
        except urllib.error.HTTPError as error:
            reason = f"{url}: HTTP status {error.code}"
            if error.code not in _PASSING_STATUS:
                raise _FetchError(reason) from error
            asked_wait_sec = _seconds(error.headers.get("Retry-After", ""))
        # Refused or broken connections, time-outs, and bodies that end before their Content-Length.
        except (OSError, http.client.HTTPException, EOFError, zlib.error) as error:
            reason = f"{url}: {error}"
        if wait_sec:
            time.sleep(min(max(wait_sec, asked_wait_sec), _LONGEST_WAIT_SEC))
    raise _ServerError(f"{reason} (tried {config.num_tries} times)")


def _waits(config: FetchConfig) -> Iterator[float]:
    """Yields the wait after each try; none after the last."""
    yield from (config.first_wait_sec * 2**number for number in range(config.num_tries - 1))
    yield 0.0


def _seconds(text: str) -> float:
    """Reads Retry-After; dates, which it may also hold, count as nothing said."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _unpack(data: bytes, url: str, image_format: str) -> bytes:
    if image_format == "tif" and data.startswith(b"\x1f\x8b"):
        # Its checksum tells a file that was cut short.
        data = gzip.decompress(data)
    if not data.startswith(_STARTS[image_format]):
        raise _FetchError(f"{url}: the answer is no {image_format} file; it starts with {data[:16]!r}")
    if image_format == "jpg" and _JPEG_END not in data[-64:]:
        raise EOFError("the file ends too early")
    return data


def describe(config: FetchConfig, result: FetchResult) -> str:
    """Writes what was done."""
    lines = [
        f"fetched   {result.num_fetched:,} files, {result.num_bytes / 1e6:,.1f} MB, to {config.out_dir}; "
        f"{result.num_there:,} were there; sha256 in {NOTES_NAME}",
        *(f"failed    {fov_id}: {reason}" for fov_id, reason in result.failures.items()),
    ]
    return "\n".join(lines)


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("ids", None, "File or URL (s3://, gs://) with an image id a line, or ids with commas between.")
    flags.DEFINE_string("out_dir", None, "Folder or URL (s3://, gs://) for the images.")
    flags.DEFINE_string("base_url", BASE_URL, "Address of the image server.")
    flags.DEFINE_enum("format", "jpg", list(_SUFFIXES), "jpg, or tif: the lossless originals.")
    flags.DEFINE_float("max_rate", 2.0, "Requests a second, at most.")
    flags.DEFINE_integer("num_tries", 6, "Tries of a file while the server fails.", 1)


def main(arguments: Sequence[str]) -> int:
    """Fetches what the flags describe."""
    values = flags.FLAGS
    if arguments:
        raise ConfigError(f"unknown argument {' '.join(arguments)}; see --help")
    config = FetchConfig(
        ids=read_ids(command.required("ids", values.ids)),
        out_dir=command.required("out_dir", values.out_dir),
        base_url=values.base_url,
        image_format=values.format,
        max_rate=values.max_rate,
        num_tries=values.num_tries,
    )
    result = run(config)
    print(describe(config, result))
    return 1 if result.failures else 0


if __name__ == "__main__":
    define_flags()
    command.run_main(main)
