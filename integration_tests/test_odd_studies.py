"""Every kind of sound and of odd study, through the chain: nothing sound stays behind, nothing odd goes out wrong.

`make prove right` plays thousands of them; here each kind is played a few times.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, RLELossless

from dicom_node.objects.file_meta import Envelope, build_file_meta
from integration_tests import foreign
from integration_tests.odd_studies import encoders
from integration_tests.odd_studies.chain import Chain, open_chain
from integration_tests.odd_studies.drawing import begin
from integration_tests.odd_studies.generator import KINDS, draw, draw_kind
from integration_tests.odd_studies.pictures import FORMS, NATIVE, Plane, draw_pixels
from integration_tests.odd_studies.plausibility import measure
from integration_tests.odd_studies.repertoires import REPERTOIRES
from integration_tests.odd_studies.score import play
from integration_tests.odd_studies.site import play_over_sockets
from integration_tests.odd_studies.study import Side
from integration_tests.odd_studies.verdicts import difference

pytestmark = [
    # What is wrong with the studies is what pydicom warns of.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

#: Studies of each kind.
EACH = 4


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    """One node for all kinds."""
    with open_chain() as opened:
        yield opened


@pytest.mark.parametrize(("side", "kind"), [(side, kind) for side, kinds in KINDS.items() for kind in kinds], ids=str)
def test_studies_of_a_kind_end_right(side: Side, kind: str, chain: Chain) -> None:
    place = list(KINDS[side]).index(kind)
    # The same studies as in the proof.
    score = play(chain, [draw(side, place + round_ * len(KINDS[side])) for round_ in range(EACH)])

    assert score.studies == EACH
    assert [str(one) for one in score.findings] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_studies_over_the_real_socket_end_as_in_memory(tmp_path: Path) -> None:
    studies = [draw(side, seed) for seed in range(0, 36, 4) for side in Side]

    score = play_over_sockets(studies, tmp_path)

    assert score.studies == len(studies)
    assert [str(one) for one in score.findings] == []


@pytest.mark.slow
def test_the_look_of_wrong_pictures_alone_gives_most_of_them_away() -> None:
    look = measure(range(2))

    assert sum(look.wrong.values()) >= 20
    assert look.share >= 0.6


def test_the_same_seed_gives_the_same_bytes() -> None:
    for side, seed in ((Side.SOUND, 3), (Side.ODD, 1), (Side.ODD, 17), (Side.ODD, 50)):
        first, second = draw(side, seed), draw(side, seed)

        assert [one.data_set for one in first.instances] == [one.data_set for one in second.instances]
        assert first.kind == list(KINDS[side])[seed % len(KINDS[side])]


def test_no_two_studies_share_a_uid() -> None:
    studies = [draw_kind(side, kind, 5) for side, kinds in KINDS.items() for kind in list(kinds)[:6]]
    studies += [draw(Side.ODD, seed) for seed in range(len(KINDS[Side.ODD]))]
    uids = [one.sop_instance_uid for study in studies for one in study.instances if study.seed != 5]

    assert len(set(uids)) == len(uids)


# ---- whether the studies are what they say, by others ------------------------------------------------------


def _stored(seed: int, syntax: UID, form: str, folder: Path) -> tuple[Path, Plane, bool]:
    draft = begin(Side.SOUND, seed)
    draft.set_pixels(draw_pixels(draft.film, draft.rng, syntax=syntax, form=form))
    study = draft.build("test")
    (instance,) = study.instances
    envelope = Envelope(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        calling_ae_title="CT01",
    )
    path = folder / f"{seed}.dcm"
    path.write_bytes(build_file_meta(envelope) + instance.data_set)
    return path, study.picture, float(draft.pixels.texts.get("RescaleSlope", "1")) < 0


#: pydicom gives the range of the output only where it is that of the stored bits.
_PYDICOM_FORMS = ("window", "exact window", "sigmoid", "no window")


# JPEG with twelve bits is read by none of pydicom's decoders here.
@pytest.mark.parametrize("syntax", [one for one in (*NATIVE, *encoders.SYNTAXES) if one != JPEGExtended12Bit])
def test_pydicom_shows_a_sound_film_as_it_was_drawn(syntax: UID, tmp_path: Path) -> None:
    seen = 0
    # A logistic curve is for more than eight bits.
    forms = [one for one in _PYDICOM_FORMS if one != "sigmoid" or syntax not in {JPEGBaseline8Bit, JPEGLSNearLossless}]
    for seed in range(12):
        form = forms[seed % len(forms)]
        path, picture, is_negative = _stored(seed, syntax, form, tmp_path)
        dataset = dcmread(path)
        values = apply_modality_lut(dataset.pixel_array, dataset)
        if is_negative or (form != "no window" and "WindowCenter" not in dataset):
            continue
        shown = apply_voi_lut(values, dataset).astype(np.float32)
        if form == "no window":
            low, high = (
                (0.0, 255.0)
                if dataset.BitsStored == 8 and not dataset.PixelRepresentation
                else (shown.min(), shown.max())
            )
        else:
            low, high = _output_range(dataset)
        plane = np.clip((shown - np.float32(low)) / np.float32(high - low), 0, 1)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            plane = np.float32(1) - plane
        seen += 1

        assert difference(picture, plane) < (0.05 if form == "no window" else 0.01), (seed, form)

    assert seen >= 6


def _output_range(dataset: Dataset) -> tuple[float, float]:
    bits = int(dataset.BitsStored)
    signed = bool(dataset.PixelRepresentation)
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    slope = float(dataset.get("RescaleSlope", 1))
    intercept = float(dataset.get("RescaleIntercept", 0))
    return low * slope + intercept, (low + 2.0**bits - 1) * slope + intercept


@pytest.mark.peers
@pytest.mark.parametrize("form", [name for name in FORMS if name != "no window"])
def test_dcmtk_shows_a_sound_film_as_it_was_drawn(form: str, tmp_path: Path) -> None:
    options = {"VOI table": ["+Wl", "1"]}.get(form, ["+Wi", "1"])
    for seed, syntax in enumerate([*NATIVE, RLELossless]):
        path, picture, _ = _stored(seed, syntax, form, tmp_path)
        target = tmp_path / f"{seed}.pgm"
        command = [foreign.program("dcm2pnm"), "+opb", *options, str(path), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

        assert difference(picture, np.asarray(Image.open(target), dtype=np.float32) / np.float32(255)) < 0.01, (
            seed,
            form,
        )


def test_every_repertoire_is_drawn_and_every_kind_has_its_turn() -> None:
    assert len(REPERTOIRES) >= 50
    assert len(KINDS[Side.ODD]) >= 70
    assert len(KINDS[Side.SOUND]) >= 8
    done = " ".join(draw(Side.SOUND, seed).done for seed in range(240))
    missing = [one.terms for one in REPERTOIRES if repr(one.terms) not in done]
    assert len(missing) <= 12, missing
