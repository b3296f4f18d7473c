"""Which objects are results of Wetread: by the device of this installation, or by the program of another one."""

import pytest

from dicom_node.objects.own_results import MANUFACTURER, is_own_result
from dicom_node.objects.sop_classes import ENCAPSULATED_PDF, KEY_OBJECT_SELECTION
from dicom_node.results.sr_document import ENHANCED_SR, build
from dicom_node.results.tests import drafts

FILM = "1.2.840.10008.5.1.4.1.1.1.1"
DEVICES = frozenset({"2.25.1", "2.25.2"})


def is_own(device_uid: str = "", manufacturer: str = "", sop_class_uid: str = ENHANCED_SR) -> bool:
    return is_own_result(device_uid=device_uid, manufacturer=manufacturer, sop_class_uid=sop_class_uid, devices=DEVICES)


@pytest.mark.parametrize("sop_class_uid", [ENHANCED_SR, FILM, ENCAPSULATED_PDF])
@pytest.mark.parametrize("device_uid", sorted(DEVICES))
def test_what_a_device_of_ours_made_is_ours_whatever_it_is(device_uid: str, sop_class_uid: str) -> None:
    assert is_own(device_uid, "", sop_class_uid)


@pytest.mark.parametrize("sop_class_uid", [ENHANCED_SR, KEY_OBJECT_SELECTION, ENCAPSULATED_PDF])
def test_the_draft_of_another_installation_starts_nothing_either(sop_class_uid: str) -> None:
    assert is_own("2.25.9", "Wetread", sop_class_uid)
    assert is_own("", "Wetread ", sop_class_uid)


def test_a_film_of_the_demonstration_is_a_film() -> None:
    assert not is_own("2.25.9", "Wetread", FILM)


@pytest.mark.parametrize("manufacturer", ["", "ACME", "Wetread Imaging Ltd", "WETREAD"])
def test_the_report_of_anybody_else_is_not_ours(manufacturer: str) -> None:
    assert not is_own("2.25.9", manufacturer)
    assert not is_own("", manufacturer)


def test_a_draft_is_recognised_by_an_installation_that_never_heard_of_its_device() -> None:
    ds = build(drafts.reading(), drafts.DEVICE, revision=1)

    assert ds.Manufacturer == MANUFACTURER
    assert is_own(ds.DeviceUID, ds.Manufacturer, ds.SOPClassUID)
