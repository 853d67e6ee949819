"""Decode what nobody vouches for in a child process: a decoder that crashes, hangs or eats memory costs one picture.

    parent ── length, bytes ──> child: codecs.decode ── a letter, sizes, pixels or a reason ──> parent

The child is a fresh interpreter (spawned, never forked), decodes many files one after the other, and is started anew
when it dies or is too slow. It gets no files, and of our environment what Python needs and where it imports from; what
it answers is held to limits as well. Where the system has `resource` its address space is limited, and it cannot write
files or dump core; elsewhere time is the only limit.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

import numpy as np

from . import codecs
from .errors import MachineError, PictureError

SECONDS = 4.0  # for one picture
MEMORY = 512 * 2**20  # bytes of the child's address space, its 100 MiB of interpreter and libraries included

CODES = {
    "timeout": "the decoder did not finish in time",
    "crash": "the decoder crashed on it",
}

_QUESTION = struct.Struct("<QB?")  # bytes that follow; what their sides are divided by; whether luma is enough
_ANSWER = struct.Struct("<cII")  # b"P" or b"L" (luma) height width, then the pixels; b"E", length of a JSON text, 0
_START = "import sys; sys.path[:] = {paths!r}; from opsin import isolation; isolation.serve({memory!r})"
_MOST_TOLD = 1 << 16  # bytes of such a text
_TICK = 0.1  # seconds between two looks at the clock
_PIPE = 1 << 20  # bytes
_WARMING = 60.0  # seconds that a new child may take until it listens


class Decoder:
    """Decodes in a child process. For one thread; make one a thread. Close it, or use it in a `with`.

    Args:
        seconds: for one picture.
        memory: bytes of address space; 512 MiB hold 40 megapixels, or 14 with alpha. Systems without such a limit: any.
    """

    def __init__(self, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self.started = 0  # children so far
        self._child: subprocess.Popen[bytes] | None = None
        self._watch: _Watch | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        if self._watch:
            self._watch.over.set()
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # what was not yet written to a dead child
                pipe.close()  # type: ignore[union-attr]
        child.wait()

    def decode(self, data: bytes | np.ndarray, *, reduced: int = 1, luma: bool = False) -> np.ndarray:
        """What `codecs.decode` gives. Arrays need no decoder and are taken here.

        Raises:
            PictureError: with a code of `codecs.CODES`, or `timeout` or `crash`.
            MachineError: no child can be started.
        """
        # What the first bytes tell needs no child, and much of what is no picture at all ends here.
        if isinstance(data, np.ndarray) or codecs.sniff(data) is None or len(data) > codecs.LIMITS.bytes:
            return codecs.decode(data)
        child, watch = self._alive()
        try:
            with watch.within(self.seconds):
                return _asked(child, data, reduced, luma)
        except (OSError, EOFError) as error:
            self.close()
            code = "timeout" if watch.late else "crash"
            raise PictureError(code, CODES[code], received=f"{len(data):,} bytes", do="Leave it out") from error
        except PictureError:
            raise
        except BaseException:  # interrupted in the middle of an answer: the rest of it must not meet the next question
            self.close()
            raise

    def _alive(self) -> tuple[subprocess.Popen[bytes], _Watch]:
        if self._child is None or self._watch is None or self._watch.late or self._child.poll() is not None:
            self.close()
            self._child = _started(self.memory)
            self._watch = _Watch(self._child)
            self.started += 1
        return self._child, self._watch


class _Watch:
    """Ends a child that is late. One thread a child: a timer a picture cost a fifth of what decoding it does."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child, self.due, self.late = child, math.inf, False
        self.lock, self.over = threading.Lock(), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.late and not self.over.wait(_TICK):
            with self.lock:  # what was in time is not ended after all
                if time.monotonic() > self.due:
                    self.late = True
                    self.child.kill()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        self.due = time.monotonic() + seconds
        try:
            yield
        finally:
            with self.lock:
                self.due = math.inf


class Decoders:
    """As many Decoders as threads decode at a time. Close them, or use them in a `with`, once all threads are done."""

    def __init__(self) -> None:
        self._all: list[Decoder] = []
        self._idle: SimpleQueue[Decoder] = SimpleQueue()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        for decoder in self._all:
            decoder.close()

    def decode(self, data: bytes | np.ndarray, *, reduced: int = 1, luma: bool = False) -> np.ndarray:
        """What `Decoder.decode` gives and raises, from any thread."""
        try:
            decoder = self._idle.get_nowait()
        except Empty:
            decoder = Decoder()
            self._all.append(decoder)
        try:
            return decoder.decode(data, reduced=reduced, luma=luma)
        finally:
            self._idle.put(decoder)


def _started(memory: int) -> subprocess.Popen[bytes]:
    # What this process imports from, which PYTHONPATH may have said: numpy need not lie where Python is.
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, map(str, sys.path))]
    code = _START.format(paths=paths, memory=memory)
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "PATH", "LD_LIBRARY_PATH") if name in os.environ}
    kept |= {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # each thread reserves address space
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept,
        )
    except OSError as error:
        raise MachineError(f"no process to decode in could be started: {error.strerror or error}") from error
    timer = threading.Timer(_WARMING, child.kill)
    timer.start()
    try:
        _exactly(_out(child), 1)  # it listens; from now on the clock is the pictures'
    except (OSError, EOFError) as error:
        child.kill()
        child.communicate()
        raise MachineError("the process to decode in ended at once", do=f"Give it more than {memory} bytes") from error
    finally:
        timer.cancel()
    _widen(child)
    return child


def _widen(child: subprocess.Popen[bytes]) -> None:
    """Make room for a picture in the pipes, where the system can: each time one is full, two processes wait."""
    try:
        from fcntl import F_SETPIPE_SZ, fcntl
    except ImportError:  # not Linux
        return
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # more than this user may have
            fcntl(pipe, F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]


def _asked(child: subprocess.Popen[bytes], data: bytes, reduced: int, luma: bool) -> np.ndarray:
    assert child.stdin is not None
    child.stdin.write(_QUESTION.pack(len(data), reduced, luma) + data)
    child.stdin.flush()
    kind, first, second = _ANSWER.unpack(_exactly(_out(child), _ANSWER.size))
    if kind == b"E":
        raise _refusal(_exactly(_out(child), min(first, _MOST_TOLD)))
    # A child that was taken over could claim any size: it is held to the limits that it had.
    if first * second > codecs.LIMITS.pixels or (kind == b"L" and not luma):
        raise EOFError
    picture = np.empty((first, second) if kind == b"L" else (first, second, 3), np.uint8)
    _fill(_out(child), picture.data.cast("B"))
    return picture


def _refusal(told: bytes) -> PictureError:
    """What a child says of a picture. Raises EOFError for what it would not say unless it was taken over."""
    try:
        answer = json.loads(told)
        code, text, known = str(answer["code"]), str(answer["text"]), answer["code"] in codecs.CODES
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EOFError from error
    if not known:
        raise EOFError
    tight = "The process that decodes foreign pictures has little on purpose: make it smaller"
    return PictureError(code, text, do=tight if code == "out-of-memory" else "")


def _out(child: subprocess.Popen[bytes]) -> BinaryIO:
    assert child.stdout is not None
    return child.stdout  # type: ignore[return-value]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _fill(file: BinaryIO, place: memoryview) -> None:
    while place:
        got = file.readinto(place)  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        place = place[got:]


# ── in the child ──


def serve(memory: int) -> None:
    """What the child does until its parent closes the pipe. Never called in the parent."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "r+b") as nothing:  # a library that prints must not print into an answer
        for number in (0, 1, 2):
            os.dup2(nothing.fileno(), number)
    _limit(memory)
    answers.write(b"!")
    answers.flush()
    while head := questions.read(_QUESTION.size):
        length, reduced, luma = _QUESTION.unpack(head)
        _answer(answers, questions.read(length), reduced, luma)
        answers.flush()


def _limit(memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, most in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with suppress(ValueError, OSError, AttributeError):  # macOS takes no limit of address space
            resource.setrlimit(getattr(resource, name), (most, most))


def _answer(answers: BinaryIO, data: bytes, reduced: int, luma: bool) -> None:
    try:
        picture = codecs.decode(data, reduced=reduced, luma=luma)
    except PictureError as error:
        told = json.dumps({"code": error.code, "text": str(error)}).encode()
        answers.write(_ANSWER.pack(b"E", len(told), 0) + told)
        return
    answers.write(_ANSWER.pack(b"P" if picture.ndim == 3 else b"L", *picture.shape[:2]))
    answers.write(picture.data.cast("B"))
