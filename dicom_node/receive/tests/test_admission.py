"""Admission: who may associate, and for what."""

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import AllStoragePresentationContexts, build_context

from casebook.settings import ListenerSettings
from dicom_node.receive.admission import VERIFICATION, Register, contexts_for

ALL_STORAGE = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]


def test_every_storage_class_is_supported_in_every_known_transfer_syntax() -> None:
    supported = contexts_for([build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in ALL_STORAGE])

    assert {str(context.abstract_syntax) for context in supported} == set(ALL_STORAGE)
    assert len(ALL_STORAGE) > 150
    for context in supported:
        syntaxes = [str(uid) for uid in context.transfer_syntax]
        assert set(syntaxes) == set(ALL_TRANSFER_SYNTAXES)
        # Implicit VR last: it loses the VRs of private elements.
        assert syntaxes.index("1.2.840.10008.1.2.4.90") < syntaxes.index("1.2.840.10008.1.2.1")
        assert syntaxes[-1] == "1.2.840.10008.1.2"


def test_of_what_two_contexts_of_one_class_offer_all_is_supported_and_nothing_else() -> None:
    offered = [["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"], ["1.2.840.10008.1.2.1", "1.2.3.4"]]

    [supported] = contexts_for([build_context(ALL_STORAGE[0], syntaxes) for syntaxes in offered])

    assert supported.transfer_syntax == ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


@pytest.mark.parametrize(
    ("abstract_syntax", "is_supported"),
    [
        (VERIFICATION, True),
        ("1.2.840.113619.4.30", True),  # private
        ("1.2.840.10008.5.1.4.1.1.999", True),  # of the standard, too new for our tables
        ("1.2.840.10008.5.1.4.1.2.2.1", False),  # C-FIND
        ("1.2.840.10008.5.1.4.1.2.2.2", False),  # C-MOVE
        ("1.2.840.10008.1.20.1", False),  # storage commitment
        ("1.2.840.10008.5.1.4.31", False),  # worklist
    ],
)
def test_only_storage_and_verification_are_offered(abstract_syntax: str, is_supported: bool) -> None:
    assert bool(contexts_for([build_context(abstract_syntax)])) == is_supported


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.1.2.3", True),
        ("10.2.0.1", False), ("192.168.0.1", False), ("2001:db8::1", False), ("fe80::1%eth0", False), ("", False),
        ("not an address", False),
    ],
)  # fmt: skip
def test_only_allowed_networks_are_spoken_to(address: str, is_allowed: bool) -> None:
    settings = ListenerSettings(allowed_networks=("127.0.0.0/8", "::1/128", "10.1.0.0/16"))

    assert Register(settings).allows_address(address) == is_allowed


def test_an_address_is_charged_from_its_first_byte_until_the_end_whatever_its_spelling() -> None:
    register = Register(ListenerSettings(max_associations_per_address=2))
    held = [register.connect(address) for address in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2")]

    assert [one is not None and one.is_within_limit for one in held] == [True, True, False, True]
    first, second = held[0], held[1]
    assert first is not None
    assert second is not None
    first.end()
    # Once only: the place it had may be another's by now.
    assert register.connect("192.0.2.3") is not None
    first.end()
    second.end()
    # One of it is left, the one beyond its limit.
    again = [register.connect("192.0.2.1") for _ in range(2)]
    assert [one is not None and one.is_within_limit for one in again] == [True, False]
    assert [register.connect("192.0.2.3") is not None for _ in range(9)] == [True] * 9
    assert register.connect("192.0.2.3") is None


def test_far_too_many_connections_of_an_address_are_not_even_told_so() -> None:
    register = Register(ListenerSettings(max_associations_per_address=2))
    held = [register.connect("192.0.2.1") for _ in range(30)]

    assert sum(one is None for one in held) == 20
    assert register.connect("192.0.2.2") is not None
