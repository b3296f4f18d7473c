"""When two identities are one: the one comparison of what says whose a study is, and the texts that say nothing.

Everything that compares patients calls this file: intake, the flow, the reader, the gates before an output, what the
archive answers, priors, and what a person releases.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from casebook.study import Demographic, Fault, IdentifyingText, PatientIdentity, StudyHeader

#: What a person is told, after the keyword.
FAULT_WORDS = {
    Fault.UNDECODABLE: "has bytes that are no characters of its character set",
    Fault.CONTROL_CHARACTER: "holds a control character",
    Fault.LOST_CHARACTER: "holds a replacement character: a letter was lost before it came here",
    Fault.SEVERAL_VALUES: (
        "holds a backslash, which separates values, or stands there twice with different values, and may have one "
        "value only"
    ),
}
#: What identifies, by its name in a header -> DICOM keyword.
KEYWORDS = {
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "patient_name": "PatientName",
    "referring_physician_name": "ReferringPhysicianName",
}
#: What two instances of a study must not contradict each other in.
IDENTITY = tuple(PatientIdentity.__dataclass_fields__)
#: Of those, what says who the patient is; other studies of the patient have other accession numbers.
PATIENT = ("patient_id", "issuer_of_patient_id", "patient_birth_date")
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f]")
#: C1 controls, halves of surrogate pairs and code points that are no characters, in any character set.
_NO_CHARACTER = re.compile("[\x80-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def without_padding(text: str) -> str:
    """Return a text without what pads it (PS3.5 6.2): blanks around it, and NULs at its end."""
    return text.rstrip(" \x00").lstrip(" ")


def holds_control_character(text: str) -> bool:
    """Say whether a text holds a C0 control character or DEL."""
    return _CONTROL_CHARACTER.search(text) is not None


def holds_no_character(text: str) -> bool:
    """Say whether a text holds a code point that no character set has a letter for."""
    return _NO_CHARACTER.search(text) is not None


def holds_lost_character(text: str) -> bool:
    """Say whether a text holds U+FFFD, which stands where a character was lost."""
    return "\ufffd" in text


def separates_values(text: str) -> bool:
    """Say whether a text holds a backslash, which separates values (PS3.5 6.2)."""
    return "\\" in text


def fault_of(keyword: str, text: str) -> Fault | None:
    """Say why a decoded text cannot identify anybody, None where it can."""
    if holds_control_character(text):
        return Fault.CONTROL_CHARACTER
    if holds_no_character(text):
        return Fault.UNDECODABLE
    if holds_lost_character(text):
        return Fault.LOST_CHARACTER
    # Several referring physicians are no other patient: the attribute is left out.
    if keyword != "ReferringPhysicianName" and separates_values(text):
        return Fault.SEVERAL_VALUES
    return None


def agree(one: str | None, other: str | None) -> bool:
    """Say whether two values that identify are one: both exact, and their texts equal without padding.

    Nothing is folded: no case, no width, no normal form of Unicode.

    Parameters
    ----------
    one, other
        None where the bytes are no exact text; that agrees with nothing, not even with itself.
    """
    return one is not None and other is not None and without_padding(one) == without_padding(other)


def exact_text(header: StudyHeader, name: str) -> str | None:
    """Return what a header says under a name of `KEYWORDS`; None where the bytes received are no exact text."""
    received = _received(header, name)
    if received is not None and received.text is None:
        return None
    text: str = getattr(header.identity if name in IDENTITY else header, name)
    return None if fault_of(KEYWORDS[name], text) else text


def _received(header: StudyHeader, name: str) -> IdentifyingText | None:
    return next((one for one in header.identifying if one.keyword == KEYWORDS[name]), None)


def contradictions(headers: Iterable[StudyHeader], names: Sequence[str] = IDENTITY) -> tuple[str, ...]:
    """Name the identity attributes in which headers contradict one another, in a fixed order.

    A value that is no exact text contradicts everything. An empty AccessionNumber, issuer or birth date says
    nothing and contradicts nobody; an empty PatientID contradicts one that is there.
    """
    compared = tuple(headers)
    return tuple(name for name in names if _contradict(name, [exact_text(one, name) for one in compared]))


def _contradict(name: str, texts: Sequence[str | None]) -> bool:
    stated = [one for one in texts if not says_nothing(name, one)]
    return any(not agree(stated[0], one) for one in stated)


def says_nothing(name: str, text: str | None) -> bool:
    """Say whether a value is empty where that is no statement: a capture without an order is nobody else's."""
    return name != "patient_id" and text is not None and not without_padding(text)


def changes(first: StudyHeader, repeated: StudyHeader) -> bool:
    """Say whether a repeated copy carries another identity than the first, or one that the first lacks.

    A copy of one that is no exact text may be the mended one, so a person has to see it.
    """
    return bool(contradictions((first, repeated)) or inexact((first,))) or any(
        says_nothing(name, exact_text(first, name)) and not says_nothing(name, exact_text(repeated, name))
        for name in IDENTITY
    )


def with_identity_of(header: StudyHeader, others: Iterable[StudyHeader]) -> StudyHeader:
    """Return a header with what it lacks of the identity, from headers that do not contradict it."""
    found = {name: exact_text(header, name) for name in IDENTITY}
    for other in others:
        found |= {
            name: exact_text(other, name)
            for name, text in found.items()
            if text is not None and says_nothing(name, text)
        }
    identity = replace(header.identity, **{name: text for name, text in found.items() if text})
    return replace(header, identity=identity)


def unvouched(header: StudyHeader, vouching: Iterable[StudyHeader]) -> tuple[str, ...]:
    """Name what identifies in a header and stands in none of the others."""
    every = tuple(vouching)
    return tuple(
        name
        for name in KEYWORDS
        if exact_text(header, name) != ""
        and not any(agree(exact_text(header, name), exact_text(one, name)) for one in every)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inexact:
    """A value that identifies and is no exact text."""

    keyword: str
    fault: Fault
    #: What it was decoded with.
    character_set: str = ""


def inexact(headers: Iterable[StudyHeader]) -> tuple[Inexact, ...]:
    """Return what identifies and is no exact text, each kind once."""
    found = (_inexact(header, name) for header in headers for name in KEYWORDS)
    return tuple(dict.fromkeys(one for one in found if one is not None))


def _inexact(header: StudyHeader, name: str) -> Inexact | None:
    if exact_text(header, name) is not None:
        return None
    received = _received(header, name)
    text: str = getattr(header.identity if name in IDENTITY else header, name)
    fault = (received.fault if received else None) or fault_of(KEYWORDS[name], text) or Fault.UNDECODABLE
    return Inexact(keyword=KEYWORDS[name], fault=fault, character_set=received.character_set if received else "")


def say_inexact(found: Sequence[Inexact]) -> str:
    """Say in words which attributes cannot be read exactly and why, without their values."""
    said = (
        f"{one.keyword} {FAULT_WORDS[one.fault]}"
        + (f" ({one.character_set})" if one.character_set and one.fault is Fault.UNDECODABLE else "")
        for one in found
    )
    return "; ".join(dict.fromkeys(said))


def differing_demographics(headers: Iterable[StudyHeader]) -> tuple[Demographic, ...]:
    """Name what images of one patient say differently about name and sex, in a fixed order.

    An empty value says nothing. Of a name, each component group (alphabetic, ideographic, phonetic: PS3.5 6.2.1.2) is
    compared where both state it, without regard to case, as a query for a person's name is (PS3.4 C.2.2.2.1).
    """
    compared = tuple(headers)
    return tuple(one for one in Demographic if _say_differently(one, compared))


def _say_differently(what: Demographic, headers: Sequence[StudyHeader]) -> bool:
    values = dict.fromkeys(str(getattr(one, what)) for one in headers)
    return any(_is_another(one, other) for one, other in combinations(values, 2))


def _is_another(one: str, other: str) -> bool:
    pairs = zip(_groups(one), _groups(other), strict=False)
    return any(first and second and first != second for first, second in pairs)


def _groups(text: str) -> list[str]:
    # Empty components at the end of a group are padding.
    return ["^".join(part.strip() for part in group.rstrip("^ ").split("^")).casefold() for group in text.split("=")]


def with_demographics_of(header: StudyHeader, others: Iterable[StudyHeader]) -> StudyHeader:
    """Return a header with the name and the sex that it lacks, where the others state one of it and no other."""
    compared = tuple(others)
    differing = differing_demographics(compared)
    found = {
        what.value: next((text for one in compared if (text := str(getattr(one, what)))), "")
        for what in Demographic
        if what not in differing and not getattr(header, what)
    }
    return replace(header, **found)  # type: ignore[arg-type]


def why_unclear(headers: Sequence[StudyHeader], strict: Sequence[Demographic] = ()) -> tuple[str, str] | None:
    """Say why nobody can tell whose a study is, as a static reason and a sentence; None where it is clear.

    Parameters
    ----------
    strict
        In what the images may not differ either, because the site says so.
    """
    if unread := inexact(headers):
        return "identity_not_exact", f"{say_inexact(unread)}, so no draft is written."
    if named := disagreements(headers, strict):
        return "patient_identity_differs", f"The images of this study disagree about {named}, so no draft is written."
    return None


def disagreements(headers: Iterable[StudyHeader], strict: Sequence[Demographic] = ()) -> str:
    """Name the attributes in which headers may not differ and do, as a person reads it; empty where there are none."""
    compared = tuple(headers)
    keywords = [KEYWORDS[one] for one in contradictions(compared)]
    keywords += [one.keyword for one in differing_demographics(compared) if one in strict]
    return ", ".join(keywords)
