"""DICOM, made with pydicom: windows, tables, inverted gray, patients, and what is refused."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from opsin import codecs, isolation, sources
from opsin.errors import DataError, PictureError

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

VALUES = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


def made(values: np.ndarray = VALUES, syntax: str = "1.2.840.10008.1.2.1", **tags: object) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = pydicom.uid.UID(syntax), pydicom.uid.UID("1.2.3")
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3.4")
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    usual = {"PatientName": "Doe^Jane", "PatientID": "4711", "SamplesPerPixel": 1, "BitsAllocated": 16,
             "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
             "Rows": values.shape[-2], "Columns": values.shape[-1]}  # fmt: skip
    for name, value in {**usual, **tags}.items():
        setattr(found, name, value)
    found.add_new("PixelData", "OW", values.tobytes())
    found["PixelData"].is_undefined_length = meta.TransferSyntaxUID.is_compressed
    file = io.BytesIO()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def gray(data: bytes) -> np.ndarray:
    picture = codecs.decode(data)
    assert (picture[..., :1] == picture).all()
    return picture[..., 0]


def code(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        codecs.decode(data)
    assert "4711" not in str(caught.value)
    assert "Doe" not in str(caught.value)
    return caught.value.code


def test_the_window_is_the_standards_line() -> None:
    found = gray(made(WindowCenter=2048, WindowWidth=1024))
    expected = ((VALUES - 2047.5) / 1023 + 0.5).clip(0, 1) * 255  # PS3.3, C.11.2.1.2.1
    np.testing.assert_array_equal(found, np.rint(expected))
    several = gray(made(WindowCenter=[2048, 10], WindowWidth=[1024, 10]))
    np.testing.assert_array_equal(several, found)


def test_without_a_window_the_values_range_is_shown_and_monochrome1_is_inverted() -> None:
    found = gray(made())
    assert (found.min(), found.max()) == (0, 255)
    np.testing.assert_array_equal(gray(made(PhotometricInterpretation="MONOCHROME1")), 255 - found)
    assert gray(made(np.zeros((16, 16), np.uint16))).max() == 0


def test_rescaling_comes_before_the_window() -> None:
    tags = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15, "RescaleSlope": 2, "RescaleIntercept": -10}
    window = {"WindowCenter": 0, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}
    signed = made(VALUES.astype(np.int16) - np.int16(1024), **tags, **window)
    expected = (((VALUES.astype(float) - 1024) * 2 - 10) / 100 + 0.5).clip(0, 1) * 255
    np.testing.assert_array_equal(gray(signed), np.rint(expected))
    soft = gray(made(WindowCenter=2048, WindowWidth=1024, VOILUTFunction="SIGMOID"))
    np.testing.assert_array_equal(soft, np.rint(255 / (1 + np.exp(-4 * (VALUES.astype(float) - 2048) / 1024))))


def test_a_table_of_values_goes_before_the_window() -> None:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", (np.arange(4096, dtype=np.uint16) * 16).tobytes())
    found = gray(made(VOILUTSequence=[item], WindowCenter=1, WindowWidth=1))
    np.testing.assert_array_equal(found, np.rint(255 * (VALUES * 16.0) / 65535))


def test_what_is_no_gray_picture_of_one_frame_is_refused() -> None:
    assert code(made(np.stack([VALUES, VALUES]), NumberOfFrames=2)) == "unsupported-format"
    assert code(made(SamplesPerPixel=3, PhotometricInterpretation="RGB")) == "unsupported-format"
    assert code(made(syntax="1.2.840.10008.1.2.1.99")) == "unsupported-format"
    assert code(made(Rows=60_000, Columns=60_000)) == "too-many-pixels"
    assert code(made(Rows=17)) == "truncated"
    jpeg = made().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.80"[:20])
    assert code(jpeg[:200]) in {"unsupported-format", "truncated", "corrupt"}


JPEG, JPEG2000, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
BYTES = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}


def packed(syntax: str, frame: bytes, side: int = 16, **tags: object) -> bytes:
    """A DICOM file that holds `frame` and says that it is of `side` × `side` pixels."""
    from pydicom.encaps import encapsulate

    frame += bytes(len(frame) % 2)
    content = np.frombuffer(encapsulate([frame]), np.uint8)[None]
    return made(content, syntax, **{"Rows": side, "Columns": side, **BYTES, **tags})


def encoded(format: str, values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format, **({"no_jp2": True} if format == "JPEG2000" else {"quality": 95}))
    return file.getvalue()


def run_lengths(*segments: bytes) -> bytes:
    starts = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = [len(segments), *starts]
    return header.tobytes() + b"".join(segments)


def test_compressed_frames_are_read() -> None:
    values = (VALUES >> 4).astype(np.uint8)
    shown = gray(made(values, **BYTES))
    np.testing.assert_array_equal(gray(packed(JPEG2000, encoded("JPEG2000", values))), shown)
    assert np.abs(gray(packed(JPEG, encoded("JPEG", values))).astype(int) - shown).max() < 16
    rows = b"".join(b"\x0f" + row.tobytes() for row in values)  # sixteen to copy
    np.testing.assert_array_equal(gray(packed(RLE, run_lengths(rows))), shown)
    np.testing.assert_array_equal(gray(packed(RLE, run_lengths(rows + b"\xff\x00"))), shown)  # two more, as some pad
    high = run_lengths(b"".join(b"\x0f" + (row >> 8).astype(np.uint8).tobytes() for row in VALUES),
                       b"".join(b"\x0f" + (row & 255).astype(np.uint8).tobytes() for row in VALUES))  # fmt: skip
    deep = packed(RLE, high, BitsAllocated=16, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(gray(deep), gray(made()))


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python held while this was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [8, 15])
def test_a_frame_of_more_pixels_than_the_header_says_is_not_unpacked(side: int) -> None:
    """The limits are held against the header: what lies behind it could be of any size."""
    runs = run_lengths(b"\x81\x00" * 500_000)  # 61 MiB of zeros
    deep = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    two = run_lengths(b"\x81\x00" * 500_000, b"")
    for data in (packed(RLE, runs, side), packed(RLE, two, side, **deep)):
        assert peak(lambda data=data: code(data)) < 16 << 20
        assert code(data) == "corrupt"
    large = np.zeros((3000, 3000), np.uint8)  # 8.6 MiB, of which the files are a hundredth
    for data in (packed(JPEG, encoded("JPEG", large), side), packed(JPEG2000, encoded("JPEG2000", large), side)):
        assert peak(lambda data=data: code(data)) < 4 << 20
        assert code(data) == "corrupt"
    assert code(packed(RLE, run_lengths(b"\x80" * 4_000_000), side)) == "corrupt"
    assert code(packed(JPEG, b"no such thing")) == "unsupported-format"


def damaged(data: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for number in range(60):
        changed = bytearray(data[: len(data) if number % 3 else int(rng.integers(132, len(data)))])
        for place in rng.integers(132, len(changed) if number % 2 else min(len(changed), 400), 3):
            changed[place] ^= 1 << int(rng.integers(0, 8))
        yield bytes(changed)


def answer(decode: Callable[[bytes], np.ndarray], data: bytes) -> str:
    try:
        return f"picture {decode(data).shape}"
    except PictureError as error:
        return error.code


def test_damage_becomes_a_code(capsys) -> None:
    answers = {answer(codecs.decode, data) for data in damaged(made(WindowCenter=2048, WindowWidth=1024))}
    assert "picture (16, 16, 3)" in answers
    assert {found for found in answers if not found.startswith("picture")} <= {*codecs.CODES}
    assert capsys.readouterr() == ("", "")


def test_a_child_answers_alike() -> None:
    data = made(WindowCenter=2048, WindowWidth=1024)
    with isolation.Decoder() as decoder:
        for each in (data, *damaged(data)):
            assert answer(decoder.decode, each) == answer(codecs.decode, each)
        assert decoder.started == 1


def test_patients_are_groups_that_do_not_tell_who_they_are(tmp_path) -> None:
    for number in range(8):
        place = tmp_path / "set" / "ab"[number % 2] / f"{number}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(made(VALUES + number, PatientID=f"47{number // 4}"))
    plain = sources.read(tmp_path / "set")
    assert any("--group PatientID" in note for note in plain.notes)
    data = sources.read(tmp_path / "set", group="PatientID")
    groups = [record.group for record in sorted(data.records, key=lambda record: record.key[-5])]
    assert len(set(groups[:4])) == len(set(groups[4:])) == 1
    assert groups[0] != groups[4]
    assert not any("470" in str(group) for group in groups)
    (tmp_path / "set" / "a" / "0.dcm").write_bytes(made(PatientID=""))
    with pytest.raises(DataError, match=r"0\.dcm"):
        sources.read(tmp_path / "set", group="PatientID")
