"""The interface documents say what the code does."""

import re
from pathlib import Path

import pytest

from casebook.errors import PeerUnavailable, RejectedByPeer
from dicom_node.hl7.mllp import Acknowledgement
from dicom_node.receive.statuses import STATUS_OF_ERROR, SUCCESS
from dicom_node.results.store_scu import judge
from dicom_node.results.tests import drafts
from dicom_node.results.tests.test_oru import built
from dicom_node.results.tests.test_sr_document import outline, read_back

DOCS = Path(__file__).parents[2] / "docs"
CONFORMANCE = (DOCS / "dicom_conformance.md").read_text(encoding="utf-8")
HL7 = (DOCS / "hl7_interface.md").read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]


def example(page: str) -> list[str]:
    return page.split("```text\n", 1)[1].split("```", 1)[0].splitlines()


def test_the_example_tree_is_the_one_that_is_built() -> None:
    ds = read_back(drafts.reading(), revision=2, predecessor=drafts.earlier())

    assert example(CONFORMANCE) == outline(ds)


def test_the_header_table_is_what_is_built() -> None:
    ds = read_back(drafts.reading())
    rows = re.findall(r"^\| ([A-Z]\w+) \| ([^|]+) \|$", section(CONFORMANCE, "The draft report"), re.MULTILINE)
    stated = {keyword: value for keyword, value in rows if keyword in ds and ds[keyword].VR != "SQ"}
    stated.pop("ContentQualification")

    assert len(stated) >= 7
    assert stated == {keyword: str(ds[keyword].value) for keyword in stated}


def test_the_example_message_is_the_one_that_is_built() -> None:
    lines = built(drafts.reading()).split("\r")
    lines[0] = re.sub(r"\|[0-9A-F]{20}\|", "|<MSH-10>|", lines[0])

    assert example(HL7) == lines[:-1]


def test_every_status_in_the_table_does_what_the_table_says() -> None:
    rows = re.findall(r"^\| 0x(\w{4}) \| (\w+)", section(CONFORMANCE, "Sending it"), re.MULTILINE)

    assert len(rows) == 13
    for status, verdict in rows:
        assert _verdict(lambda status=status: judge(int(status, 16), "pacs")) == verdict


def test_every_acknowledgement_in_the_table_does_what_the_table_says() -> None:
    rows = re.findall(r"^\| (\w\w) \| (\d*) ?\| (\w+)", section(HL7, "Acknowledgements"), re.MULTILINE)

    assert len(rows) == 12
    for code, error_code, verdict in rows:
        answer = Acknowledgement(code=code, error_code=error_code)
        assert _verdict(answer.require_acceptance) == verdict


def _verdict(judged: object) -> str:
    assert callable(judged)
    try:
        judged()
    except PeerUnavailable:
        return "the"  # same bytes are sent again later
    except RejectedByPeer:
        return "refused"
    return "delivered"


@pytest.mark.parametrize("status", sorted({SUCCESS, *STATUS_OF_ERROR.values()}))
def test_every_status_that_we_answer_is_in_the_document(status: int) -> None:
    assert f"| 0x{status:04X} |" in section(CONFORMANCE, "Statuses we answer")
