"""A folder of pictures through a pipeline into another folder: what `opsin process` does.

Every file is written whole or not at all, and told of in `process.jsonl`, one line of JSON a file. Work that this log
tells of is not done again while the input, the pipeline and the output are as they were. There is no clock in it: a
run that was interrupted and taken up again leaves the same files, to the byte, as one that was not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch

from . import codecs, encoding, sources
from .errors import CallError, MachineError, OpsinError, PictureError, writing
from .ops.pipelines import Pipeline
from .vocabulary import Event, Refusal, Store

LOG = "process.jsonl"
ENDINGS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "avif": ".avif"}
BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)  # the file's, not the disk's
AHEAD = 16  # files a thread that are begun before the first of them is told of: an interrupt waits for no more

Line = dict[str, Any]  # of the log


@dataclass(frozen=True)
class Processed:
    """What became of a folder: how many files were written, were there already, or are refused with their reasons."""

    out: Path
    written: int
    kept: int
    refused: tuple[Refusal, ...]

    def to_dict(self) -> dict[str, Any]:
        refused = [{"path": r.key, "code": r.code, "reason": r.reason} for r in self.refused]
        return {"out": str(self.out), "written": self.written, "kept": self.kept, "refused": refused}


@dataclass(frozen=True)
class _Job:
    """What does not change from file to file."""

    store: Store
    file: Path | None  # that is read, where it is no folder
    out: Path
    pipeline: Pipeline
    steps: Line  # what the log tells of the pipeline
    force: bool
    metadata: bool
    before: Mapping[str, Line]
    inside: dict[Path, bool]  # folders of outputs that were looked at: whether they lie below `out`


def process(
    source: str | Path,
    out: str | Path,
    pipeline: Pipeline,
    *,
    force: bool = False,
    metadata: bool = False,
    threads: int = 0,
) -> Generator[Event, None, Processed]:
    """Apply the pipeline to each picture of a file, folder or zip. Long work: yields its progress.

    Outputs keep their paths below `out`, and end as the last step says: `.jpg` after `jpeg`, `.png` where no step
    compresses (a map of labels is a gray PNG, of 16 bits where there are more than 255).

    Args:
        force: overwrite files that are there and differ. Without it they are refused with the code `exists`.
        metadata: keep Exif, without its orientation and thumbnail: the picture is upright. The place where it was
            taken may be in it.
        threads: pictures at work at a time; 0: as many as the machine has cores. The result does not depend on it.

    Raises:
        CallError: when there is nothing at `source`, or `out` is no place for the result.
        DataError: when a folder or zip cannot be read.
        MachineError: when the disk is full.
    """
    source, out = Path(source), Path(out)
    store, keys, refused = sources.pictures(source)
    _check_places(source, out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    before = {line["key"]: line for line in read_log(out)}
    steps = {"ops": str(pipeline), "pipeline": pipeline.digest + ("+metadata" if metadata else "")}
    job = _Job(store, source if source.is_file() else None, out, pipeline, steps, force, metadata, before, {})
    clashing, names = _names(keys, ENDINGS.get(pipeline.steps[-1].name, ".png"))
    lines: list[Line] = [{"key": r.key, "error": {"code": r.code, "reason": r.reason}} for r in (*refused, *clashing)]
    kept, total = 0, len(lines) + len(names)
    _write_log(out, [], before)  # without a torn last line
    with one_thread_each(), writing(out / LOG), (out / LOG).open("a", encoding="utf-8") as log:
        for line, there in _in_threads(job, names, threads or os.cpu_count() or 1):
            log.write(json.dumps(line) + "\n")
            log.flush()
            kept += there
            lines.append(line)
            yield Event("progress", 0, 0, {"what": "pictures", "done": len(lines), "of": total})
    _write_log(out, lines, before)
    wrong = tuple(Refusal(line["key"], **line["error"]) for line in lines if "error" in line)
    return Processed(out, len(lines) - kept - len(wrong), kept, wrong)


def read_log(out: Path) -> list[Line]:
    """What the log of an output folder tells, one table a file; a line that was torn is left out."""
    try:
        text = (out / LOG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in map(_line, text.splitlines()) if line]


def _line(text: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) and isinstance(line.get("key"), str) else {}


def _write_log(out: Path, lines: Sequence[Line], before: Mapping[str, Line]) -> None:
    """One line a file, in the order of their names; files of an earlier call whose source is elsewhere stay told of."""
    last = {**before, **{line["key"]: line for line in lines}}
    text = "".join(json.dumps(last[key]) + "\n" for key in sorted(last))
    with writing(out / LOG):
        _write_whole(out / LOG, text.encode())


# --- where to ---------------------------------------------------------------------------------------------------------


def _check_places(source: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise CallError(f"{out} is a file", expected="a folder, or a name that is free", do="Choose another OUT")
    inner, outer = out.resolve(), source.resolve()
    if source.is_dir() and (inner.is_relative_to(outer) or outer.is_relative_to(inner)):
        raise CallError(
            "IN and OUT lie in each other",
            expected="two folders side by side",
            received=f"{source} and {out}",
            do="Choose another OUT",
        )


def _names(keys: Sequence[str], ending: str) -> tuple[list[Refusal], dict[str, str]]:
    """Refusals of files whose outputs would be one file, on some system at least; output paths by key of the others."""
    names = {key: str(PurePosixPath(key).with_suffix(ending)) for key in keys}
    same = Counter(_folded(name) for name in names.values())
    clashing = [
        Refusal(key, "same-output", f"another file would also become {name}; process them into folders of their own")
        for key, name in names.items()
        if same[_folded(name)] > 1
    ]
    for refusal in clashing:
        del names[refusal.key]
    return clashing, names


def _folded(name: str) -> str:
    """One text for all names that a file system may take for the same: Windows and macOS ignore case."""
    return unicodedata.normalize("NFC", name).casefold()


def _target(job: _Job, name: str) -> Path:
    """The output's path, which stays below `out` whatever the name is and wherever links there lead."""
    target = job.out / name
    if target.parent not in job.inside:
        job.inside[target.parent] = target.parent.resolve().is_relative_to(job.out.resolve())
    if not job.inside[target.parent] or (os.name == "nt" and ":" in name):
        raise PictureError("unsafe-path", f"{name} leads out of {job.out}")
    if job.file and target.exists() and target.samefile(job.file):
        raise PictureError("exists", f"{name} is the picture itself", do="Choose another OUT")
    return target


# --- one file ---------------------------------------------------------------------------------------------------------


def _in_threads(job: _Job, names: Mapping[str, str], threads: int) -> Iterator[tuple[Line, bool]]:
    begun: deque[Future[tuple[Line, bool]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for key, name in names.items():
            begun.append(pool.submit(_one, job, key, name))
            if len(begun) == AHEAD * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _one(job: _Job, key: str, name: str) -> tuple[Line, bool]:
    """Do one file; its line, and whether it was done before."""
    line: Line = {"key": key}
    try:
        data = job.store.read(key)
        assert isinstance(data, bytes), "files are read, not arrays"
        line |= {"input": _digest(data), **job.steps}
        target = _target(job, name)
        done = job.before.get(key, {})
        if _is_there(target, {**line, "output": name}, done):
            return dict(done), True
        made = _made(job, data)
        _put(target, made, name, force=job.force)
        return {**line, "output": name, "digest": _digest(made)}, False
    except MachineError:
        raise
    except Exception as error:  # one picture, whatever is wrong with it, does not end the work of hours
        return {**line, "error": {"code": _code(error), "reason": _reason(error)}}, False


def _code(error: Exception) -> str:
    if isinstance(error, PictureError):
        return error.code
    return "not-possible" if isinstance(error, CallError) else "failed"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, OpsinError) else f"{type(error).__name__}: {error}"


def _is_there(target: Path, wanted: Line, done: Line) -> bool:
    """Whether the log tells of this very work, and its output is as it was left."""
    if "digest" not in done or {**wanted, "digest": done["digest"]} != done:
        return False
    try:
        return not target.is_symlink() and _digest(target.read_bytes()) == done["digest"]
    except OSError:
        return False


def _made(job: _Job, data: bytes) -> bytes:
    exif = encoding.exif_of(data) if job.metadata else b""
    result = job.pipeline(codecs.decode(data), exif=exif)
    if isinstance(result, bytes):
        return result
    if result.dtype == np.int32:
        result = result.astype(np.uint8 if result.max() < 256 else np.uint16)
    return encoding.png(result, exif=exif)


def _put(target: Path, made: bytes, name: str, *, force: bool) -> None:
    """Write what was made; a file that holds just that is left alone, another one only overwritten by force."""
    with writing(target):
        if os.path.lexists(target) and not force:
            if target.is_file() and not target.is_symlink() and target.read_bytes() == made:
                return
            raise PictureError("exists", f"{name} is there and differs", do="Overwrite it with --force")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(target, made)
        except OSError as error:
            if error.errno not in BAD_NAME:
                raise
            raise PictureError("unwritable", f"{name} cannot be written: {error.strerror}") from error


def _write_whole(target: Path, data: bytes) -> None:
    part = target.with_name(f".{_digest(os.fsencode(target.name))[:16]}.part")  # of a length that every system takes
    try:
        part.write_bytes(data)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Pictures are what is done at the same time, so neither torch nor OpenCV divides one among threads."""
    ours, theirs = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(ours)
        cv2.setNumThreads(theirs)
