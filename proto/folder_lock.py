"""One job at a time in a folder: a lock file that says who works there, on local disks and on fsspec URLs.

The holder writes the file again every half minute. A lock whose process is gone from this machine is taken over at once; of
another machine, and of this one before it was started anew, nothing is known but these signs of life: after ten minutes
without one the lock counts as left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from hpa_proto import json_text, redaction, storage
from hpa_proto.errors import ConfigError

_BEAT_SECONDS = 30.0
_STALE_SECONDS = 600.0
# Two jobs may take a dead one's lock over in the same moment, and an object store may not know "create if absent": the
# one whose file is still there after this time has it.
_SETTLE_SECONDS = 0.5
# A file system without hard links shows a lock before its content.
_WRITE_SECONDS = 3.0
_POLL_SECONDS = 0.1
_MAX_COMMAND = 200
_MAX_PID = 2**31 - 1
# In the year 5138.
_MAX_BEAT = 1e11


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock; the content of its file.

    Attributes:
      pid: process.
      host: name of the machine, which two machines may share.
      boot_id: random, of the machine's last start; "" where the system does not say.
      pid_namespace: where the number counts, as a container's; "" likewise. On every machine the first one is called the same.
      process_start: what tells the process from a later one of the same number; "" likewise.
      since: ISO 8601 time.
      command: command line, cut short.
      token: random; two locks never have the same.
      beat: Unix time of the last sign of life, seconds.
    """

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: str
    since: str
    command: str
    token: str
    beat: float

    @property
    def is_here(self) -> bool:
        """Whether this machine would know its process."""
        here = (socket.gethostname(), _boot_id(), _pid_namespace())
        return (self.host, self.boot_id, self.pid_namespace) == here

    @property
    def is_dead(self) -> bool:
        """Whether the lock was left behind."""
        if self.is_here:
            return not _is_alive(self.pid) or _process_start(self.pid) != self.process_start
        return time.time() - self.beat > _STALE_SECONDS

    def describe(self) -> str:
        """Says who it is, in one line."""
        return f"process {self.pid} on {self.host}, since {self.since}: {self.command}"


# Path of the lock -> what it says, of all that this process has.
_held: dict[str, Holder] = {}


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Keeps other jobs out of a folder while the block runs; makes the folder, and takes an empty one away again.

    Should the lock be lost meanwhile (its file removed, or another machine took it over after a long silence), the whole
    process ends with a line on stderr and status 1: two writers are worse than none.

    Args:
      folder: folder or URL that the block writes to.

    Raises:
      ConfigError: another job has it; the text says which.
      OSError: the folder cannot be written to.
    """
    path = storage.join(folder, storage.LOCK_NAME)
    is_new = not storage.is_url(folder) and not os.path.exists(folder)
    own = _held[path] = _acquire(path)
    released = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(path, own, released), daemon=True)
    beat.start()
    try:
        yield
    finally:
        released.set()
        beat.join()
        _release(path)
        with contextlib.suppress(OSError):
            if is_new:
                os.rmdir(folder)


def release_held() -> None:
    """Gives up all locks of this process, which must end at once."""
    for path in list(_held):
        _release(path)


def _release(path: str) -> None:
    own = _held.pop(path)
    # What the block raised counts more than a lock that cannot be removed: in a while it is nobody's.
    with contextlib.suppress(OSError):
        if _is_held_by(path, own):
            storage.remove(path)


def _acquire(path: str) -> Holder:
    own = Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        process_start=_process_start(os.getpid()),
        since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=shlex.join(redaction.redact_arguments(sys.orig_argv))[:_MAX_COMMAND],
        token=uuid.uuid4().hex,
        beat=time.time(),
    )
    is_sure = not storage.is_url(path)
    while not storage.create_new(path, _encode(own)):
        found = _read_written(path)
        if found is not None and not found.is_dead:
            raise ConfigError(_refusal(path, found))
        _take_away(path, found)
        is_sure = False
    if not is_sure:
        time.sleep(_SETTLE_SECONDS)
        if not _is_held_by(path, own):
            raise ConfigError(f"{os.path.dirname(path)}: another job began there in the same moment; {path} names it")
    return own


def _read_written(path: str) -> Holder | None:
    """Reads a lock as `read_holder`, but gives one that says nothing yet the time to be written."""
    deadline = time.monotonic() + _WRITE_SECONDS
    while (found := read_holder(path)) is None and storage.exists(path) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def _take_away(path: str, found: Holder | None) -> None:
    """Removes a lock that was left behind, and not the one of a job that has taken it over meanwhile."""
    if storage.is_url(path):
        # Nothing can be renamed there: `_SETTLE_SECONDS` has to do.
        storage.remove(path)
        return
    # A temporary name of `storage`: what a job that is killed here leaves, the next one takes away.
    aside = os.path.join(os.path.dirname(path), f".tmp-{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    taken = read_holder(aside)
    if taken is not None and (found is None or taken.token != found.token):
        storage.create_new(path, _encode(taken))
    storage.remove(aside)


def _refusal(path: str, found: Holder) -> str:
    text = f"{os.path.dirname(path)}: another job is at work there ({found.describe()}); wait for it or choose another folder"
    if found.is_here:
        return text
    return (
        f"{text}; its last sign of life is {max(0, time.time() - found.beat):.0f} s old, after {_STALE_SECONDS:.0f} s it "
        f"counts as gone; if you know that it is, remove {path}"
    )


def _keep_alive(path: str, own: Holder, released: threading.Event) -> None:
    while not released.wait(_BEAT_SECONDS):
        try:
            found = read_holder(path)
            if found is not None and found.token == own.token:
                storage.write_bytes(path, _encode(dataclasses.replace(own, beat=time.time())))
                continue
        except OSError:
            # A full disk or a network that is away for a moment is the job's own business.
            continue
        who = "its file was removed" if found is None else f"taken over by {found.describe()}"
        print(f"\nerror: {path}: this job's lock is lost ({who}); stopped", file=sys.stderr, flush=True)
        os._exit(1)


def _is_held_by(path: str, own: Holder) -> bool:
    found = read_holder(path)
    return found is not None and found.token == own.token


def read_holder(path: str) -> Holder | None:
    """Reads a lock; None where there is none, or none that can be read."""
    try:
        found = Holder(**json_text.parse(storage.read_text(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    # 0 and negative numbers are groups of processes; of what no clock says, no silence would be long enough.
    is_sound = (
        isinstance(found.pid, int)
        and 0 < found.pid <= _MAX_PID
        and isinstance(found.beat, int | float)
        and abs(found.beat) < _MAX_BEAT
        and all(isinstance(value, str) for name, value in vars(found).items() if name not in ("pid", "beat"))
    )
    return found if is_sound else None


def _encode(holder: Holder) -> bytes:
    return (json.dumps(dataclasses.asdict(holder), indent=2) + "\n").encode()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _process_start(pid: int) -> str:
    """Returns the start of a process in clock ticks since the machine's (proc(5)); "" where nothing says it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The second field, the program's name, may hold blanks and brackets.
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    # A killed process keeps its number until its parent has asked for its status, which some never do.
    return "" if state in "ZX" else fields[18]


def _boot_id() -> str:
    # Unlike /etc/machine-id, which copies of one disk image share.
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
