"""DICOM (PS3.3, PS3.5; extra `dicom`): gray pictures of one frame, as a viewer shows them first, and whose they are.

    bytes ─ header ─> limits ─ pixels ─> modality LUT ─> VOI LUT, or window, or the values' range ─> 0…255

MONOCHROME1, where low is bright, is inverted. Several frames, colour, a frame of more pixels than its header says, a
deflated data set and transfer syntaxes that pydicom has no decoder for here are refused. Nothing that a file says of a
person is told, logged or kept.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import threading
import warnings
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np

from .errors import PictureError

PATIENT = "PatientID"  # as a group: the pictures of one patient
DEFLATED = b"1.2.840.10008.1.2.1.99"  # would be inflated whole before anything can be known of it
PIXELS = ["BitsAllocated", "BitsStored", "Columns", "HighBit", "ModalityLUTSequence", "NumberOfFrames",
          "PhotometricInterpretation", "PixelData", "PixelRepresentation", "PlanarConfiguration", "RescaleIntercept",
          "RescaleSlope", "Rows", "SamplesPerPixel", "VOILUTFunction", "VOILUTSequence", "WindowCenter",
          "WindowWidth"]  # fmt: skip
_ONE = threading.Lock()  # warnings.catch_warnings is not thread-safe, and pydicom's warnings quote values


# Of the marker that says how large a picture is: of JPEG (T.81, B.2.2) any but DHT, JPG and DAC, and that of JPEG-LS.
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
MOST_STEPS = 4096  # markers before a JPEG's first scan
PADDING = 128  # bytes that an RLE segment may be too long: encoders fill them up


def is_dicom(head: bytes) -> bool:
    """Whether a file begins like DICOM (PS3.10, 7.1): 128 bytes of anything, then DICM."""
    return head[128:132] == b"DICM"


def decode(data: bytes, check_size: Callable[[int, int], None]) -> np.ndarray:
    """The picture of a DICOM file, uint8 `(H, W)`.

    Args:
        check_size: called with width and height before any pixel is looked at; raises where they are too large.

    Raises:
        PictureError: `unsupported-format`, `truncated`, `corrupt`, and what `check_size` raises.
    """
    picture: np.ndarray = _quietly(lambda: _picture(_opened(data, PIXELS), check_size))
    return picture


def patient(data: bytes) -> str:
    """A name for the patient of a DICOM file that does not tell who it is; a guess at a PatientID can be tested by it.

    Raises:
        PictureError: `no-patient` where the file names none, and what `decode` raises.
    """
    told = str(_quietly(lambda: _opened(data, [PATIENT])).get(PATIENT) or "").strip()
    if not told:
        raise PictureError("no-patient", "it has no PatientID")
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _quietly(work: Callable[[], Any]) -> Any:
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise _unsupported("DICOM, which needs: pip install 'opsin[dicom]'") from error
    with _ONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
        try:
            return work()
        except (PictureError, MemoryError):
            raise
        except NotImplementedError as error:
            raise _unsupported("DICOM in a compression that cannot be read here") from error
        except EOFError as error:
            raise PictureError("truncated", "the DICOM file ends too early") from error
        except Exception as error:  # without its text, which may hold values
            raise PictureError("corrupt", f"the DICOM file cannot be read: {type(error).__name__}") from None


def _opened(data: bytes, tags: list[str]) -> Any:
    import pydicom

    if not is_dicom(data) or DEFLATED in data:
        raise _unsupported("a deflated DICOM data set" if is_dicom(data) else "no DICOM")
    return pydicom.dcmread(BytesIO(data), specific_tags=tags)


def _picture(found: Any, check_size: Callable[[int, int], None]) -> np.ndarray:
    from pydicom.pixels.processing import apply_modality_lut

    width, height = int(found.Columns), int(found.Rows)
    check_size(width, height)
    _refuse_others(found)
    syntax = found.file_meta.TransferSyntaxUID
    if not syntax.is_compressed and len(found.PixelData) < width * height * int(found.BitsAllocated) // 8:
        raise PictureError("truncated", "the DICOM file has fewer pixels than it says")
    if syntax.is_compressed:
        _refuse_longer(found, width * height)
    shown = _shown(apply_modality_lut(_pixels(found), found), found)
    if found.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    gray: np.ndarray = np.rint(255 * np.nan_to_num(shown.clip(0, 1))).astype(np.uint8)
    return gray


def _refuse_others(found: Any) -> None:
    if "PixelData" not in found:
        raise _unsupported("a DICOM file without pixels")
    if int(found.get("NumberOfFrames") or 1) != 1:
        raise _unsupported("DICOM of several frames")
    if found.SamplesPerPixel != 1 or found.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise _unsupported("DICOM in colour")


def _refuse_longer(found: Any, pixels: int) -> None:
    """Refuse a frame of more pixels than the header says, which is what was checked: decoders unpack all of it first.

    Raises:
        PictureError: `corrupt`.
        NotImplementedError: for a compression whose size is not known here.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    frame = get_frame(found.PixelData, 0, number_of_frames=1)
    if found.file_meta.TransferSyntaxUID == RLELossless:
        count = min(struct.unpack_from("<I", frame)[0], 15)
        starts = [*struct.unpack_from(f"<{count}I", frame, 4), len(frame)]
        longer = any(_is_longer(frame[start:end], pixels + PADDING) for start, end in pairwise(starts))
    else:
        size = _samples(frame)
        if not size:
            raise NotImplementedError
        longer = size > pixels
    if longer:
        raise PictureError("corrupt", "the DICOM file has more pixels than it says")


def _is_longer(packed: bytes, most: int) -> bool:
    """Whether an RLE segment (PS3.5, G.3) is longer than `most` bytes once it is unpacked, or far longer packed."""
    at = length = 0
    while at < len(packed) and length <= most:
        count = packed[at]  # so many and one to copy, or 257 less so many times the next
        at += count + 2 if count < 128 else 2 if count > 128 else 1
        length += count + 1 if count < 128 else 257 - count if count > 128 else 0
    return length > most or len(packed) > 2 * most


def _samples(frame: bytes) -> int:
    """Width × height × channels that a JPEG, JPEG-LS or JPEG 2000 codestream says it has; 0 for anything else."""
    if frame.startswith(b"\xff\x4f\xff\x51"):  # T.800, A.5.1
        width, height = struct.unpack_from(">II", frame, 8)
        return int(width * height * struct.unpack_from(">H", frame, 40)[0])
    at, most = 2, 0
    for _ in range(MOST_STEPS if frame.startswith(b"\xff\xd8") else 0):
        if frame[at : at + 1] != b"\xff" or frame[at + 1] == 0xDA:  # the scan
            break
        if frame[at + 1] in FRAMES:
            height, width, channels = struct.unpack_from(">HHB", frame, at + 5)
            most = max(most, height * width * channels)
        at += 1 if frame[at + 1] == 0xFF else 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return most


def _pixels(found: Any) -> np.ndarray:
    try:
        values: np.ndarray = found.pixel_array
    except (RuntimeError, AttributeError) as error:  # what pydicom raises where no decoder is installed
        if found.file_meta.TransferSyntaxUID.is_compressed:
            raise NotImplementedError from error
        raise
    if values.ndim != 2:
        raise _unsupported("DICOM of several frames")
    return values


def _shown(values: np.ndarray, found: Any) -> np.ndarray:
    """float64 `(H, W)`, black at 0 and white at 1 (PS3.3, C.11.2)."""
    from pydicom.pixels.processing import apply_voi

    if found.get("VOILUTSequence"):
        top = 2 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1
        shown = apply_voi(values, found) / top
    elif found.get("WindowCenter") is None or found.get("WindowWidth") is None:
        low, high = float(values.min()), float(values.max())
        shown = (values - low) / max(high - low, 1e-9)
    else:
        centre, width = _first(found.WindowCenter), max(_first(found.WindowWidth), 1e-9)
        shown = _windowed(values.astype(np.float64), centre, width, found.get("VOILUTFunction") or "LINEAR")
    result: np.ndarray = shown
    return result


def _windowed(values: np.ndarray, centre: float, width: float, kind: str) -> np.ndarray:
    if kind == "SIGMOID":
        steep: np.ndarray = 1 / (1 + np.exp((-4 * (values - centre) / width).clip(-700, 700)))
        return steep
    if kind == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    straight: np.ndarray = (values - centre) / width + 0.5
    return straight


def _first(value: Any) -> float:
    return float(value if isinstance(value, int | float) else value[0])


def _unsupported(what: str) -> PictureError:
    return PictureError("unsupported-format", "this kind of picture is not read", received=what)
