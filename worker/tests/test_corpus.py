"""Every real file gives a picture or one plain sentence; the catalogue beside the files says which."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from casebook.errors import UnreadablePixels
from casebook.outcomes import Drafted, Held, Refused
from casebook.settings import SHIPPED_CONFIG_DIRECTORY, Settings
from worker.read import read_with
from worker.reader.decode import Fault, open_picture, stored_values
from worker.reader.pixels import frames, pixel_height
from worker.reader.registry import load_entry
from worker.tests.fakes import ENTRY, NOW, PRESET, FakeWriter, Hospital

pytestmark = pytest.mark.corpus

#: NEMA WG-04 compression set: the folders of codecs that lose nothing.
LOSSLESS = ("RLE", "JPLL", "JLSL", "J2KR")
#: The catalogue was made with decoders that refuse these, and they are whole: two sequential 12-bit JPEGs whose scan
#: header ends the spectral selection at 0 and means 63, and whole streams without the delimiter of their sequence.
READ_ALL_THE_SAME = {
    "dicom/pydicom/test_files/JPEG-lossy.dcm": "1024x256",
    "dicom/wg04/WG04/JPLY/MR1_JPLY": "512x512",
    "dicom/pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm": "10x64x64",
}


@pytest.fixture(scope="module")
def catalogue(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "dicom_catalog.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 361
    for row in rows:
        if row["file"] in READ_ALL_THE_SAME:
            row |= {"decode": "ok", "shape": READ_ALL_THE_SAME[row["file"]]}
    return rows


def test_every_file_that_decodes_gives_pixels_between_0_and_1(corpus: Path, catalogue: list[dict[str, str]]) -> None:
    seen = 0
    for row in catalogue:
        if row["decode"] != "ok":
            continue
        picture = open_picture(corpus / row["file"])
        frame_axis = (picture.frame_count,) if picture.frame_count > 1 else ()
        assert "x".join(map(str, (*frame_axis, *picture.shape))) == row["shape"], row["file"]
        count = 0
        for frame in frames(picture):
            assert frame.dtype == np.float32
            tall = pixel_height(picture.header, count)
            assert frame.shape[:2] == (round(picture.rows * max(tall, 1)), round(picture.columns / min(tall, 1)))
            assert frame.shape[2:] in {(), (3,)}
            assert np.isfinite(frame).all()
            assert frame.min() >= 0, row["file"]
            assert frame.max() <= 1, row["file"]
            count += 1
        assert count == picture.frame_count
        seen += 1

    assert seen == 270


def test_every_file_that_does_not_decode_gives_a_reason(corpus: Path, catalogue: list[dict[str, str]]) -> None:
    reasons: Counter[str] = Counter()
    for row in catalogue:
        if row["decode"] == "ok":
            continue
        with pytest.raises(UnreadablePixels) as caught:
            list(frames(corpus / row["file"]))
        reasons[str(caught.value)] += 1

    assert reasons == {
        Fault.NO_PIXEL_DATA: 77,
        Fault.NOT_DICOM: 5,
        Fault.DAMAGED: 2,
        Fault.TRUNCATED: 1,
        Fault.BAD_HEADER: 2,
        Fault.UNKNOWN_TRANSFER_SYNTAX: 2,
        Fault.NO_TRANSFER_SYNTAX: 1,
        Fault.SIZE_CONFLICT: 1,
    }


def test_every_lossless_codec_gives_back_the_reference_pixel_for_pixel(corpus: Path) -> None:
    root = corpus / "dicom" / "wg04" / "WG04"
    compared = 0
    for codec in LOSSLESS:
        for path in sorted((root / codec).iterdir()):
            reference = root / "REF" / f"{path.name.split('_')[0]}_UNC"
            expected = stored_values(open_picture(reference))

            assert np.array_equal(stored_values(open_picture(path)), expected), path.name
            compared += 1

    assert compared == 12


def test_lossy_codecs_differ_from_the_reference_but_not_much(corpus: Path) -> None:
    root = corpus / "dicom" / "wg04" / "WG04"
    compared = 0
    for codec in ("J2KI", "JLSN", "JPLY"):
        for path in sorted((root / codec).iterdir()):
            lossy = stored_values(open_picture(path)).astype(float)
            reference = stored_values(open_picture(root / "REF" / f"{path.name.split('_')[0]}_UNC"))
            span = float(reference.max()) - float(reference.min())

            assert 0 < np.abs(lossy - reference).mean() < 0.02 * span, path.name
            compared += 1

    assert compared == 6


def test_every_file_ends_its_own_study_with_a_draft_or_a_reason(corpus: Path, catalogue: list[dict[str, str]]) -> None:
    settings = Settings(data_directory=corpus)
    outcomes: Counter[str] = Counter()
    for row in catalogue:
        modality = row["Modality"] or "none"
        entry = ENTRY.model_copy(update={"modalities": (modality, ""), "body_parts": ()})
        hospital = Hospital(corpus)
        hospital.add(row["file"], sop_class_uid=row["SOPClassUID"], modality=modality, transfer_syntax_uid=row["ts"])

        outcome = read_with(FakeWriter(entry=entry), hospital.case(), PRESET, settings, now=NOW)

        assert isinstance(outcome, Drafted | Refused), row["file"]
        if isinstance(outcome, Refused):
            assert outcome.reason
            assert outcome.detail.endswith(".")
            assert not row["PatientName"] or row["PatientName"] not in outcome.detail
        outcomes["drafted" if isinstance(outcome, Drafted) else outcome.reason] += 1
        if row["decode"] != "ok":
            assert isinstance(outcome, Refused), row["file"]

    assert outcomes == {
        "drafted": 143,
        "no_frontal_view": 3,
        "no_images": 182,
        "not_made_for_this": 1,
        "unreadable_images": 32,
    }
    assert outcomes.total() == 361


def test_whole_streams_without_the_delimiter_of_their_sequence_are_those_of_the_whole_file(corpus: Path) -> None:
    folder = corpus / "dicom" / "pydicom-data"
    whole = open_picture(folder / "emri_small_jpeg_2k_lossless.dcm")
    cut = open_picture(folder / "emri_small_jpeg_2k_lossless_too_short.dcm")

    assert cut.frame_count == 10
    for index in range(10):
        assert np.array_equal(stored_values(cut, index), stored_values(whole, index))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("view_code_lateral", "no_frontal_view"),
        ("view_lateral_control", "no_frontal_view"),
        ("view_xtable_lateral", "no_frontal_view"),
        ("view_xtable_beside_ap_axial", "no_frontal_view"),
    ],
)
def test_a_film_that_is_not_frontal_is_never_read(corpus: Path, name: str, reason: str) -> None:
    outcome = read_case(corpus, name)

    assert isinstance(outcome, Refused)
    assert outcome.reason == reason


@pytest.mark.parametrize("name", ["reference", "secondary_capture_without_accession"])
def test_an_undamaged_film_is_read_and_a_capture_beside_it_is_not(corpus: Path, name: str) -> None:
    outcome = read_case(corpus, name)

    assert isinstance(outcome, Drafted)
    assert len(outcome.reading.images) == 1
    assert outcome.reading.notes == ()


def read_case(corpus: Path, name: str) -> Drafted | Refused | Held:
    settings = Settings(data_directory=corpus)
    hospital = Hospital(corpus)
    for path in sorted((corpus / "cases" / name).glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        hospital.add(
            str(path.relative_to(corpus)),
            sop_class_uid=header.SOPClassUID,
            modality=header.Modality,
            transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
        )
    entry = load_entry(SHIPPED_CONFIG_DIRECTORY / "models" / "phantom-cxr.yaml")
    return read_with(FakeWriter(entry=entry), hospital.case(), PRESET, settings, now=NOW)
