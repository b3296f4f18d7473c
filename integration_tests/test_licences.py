"""Every package that a role installs has a licence that goes with ours, and stands on the page of licences."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from integration_tests.settings import REPOSITORY

ROLES = ("node", "worker", "training", "console")
#: Copyleft that would reach Wetread. LGPL and a GPL with an exception for linking do not.
FORBIDDEN = re.compile(r"(?<![A-Z])A?GPL|GNU (Affero )?General Public", re.IGNORECASE)


@cache
def page() -> dict[str, list[str]]:
    """Rows of the page: package -> version, licence, roles, note."""
    text = (REPOSITORY / "docs/licences.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in rows if row[0] != "package"}


def required() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for role in ROLES for one in extras[role])]


def closure(requirements: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Every distribution that the requirements bring along, as installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()

    def walk(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        if name == "wetread" or (name, frozenset(requirement.extras)) in done:
            return
        done.add((name, frozenset(requirement.extras)))
        found[name] = importlib.metadata.distribution(name)
        for one in _needed(found[name].requires or [], requirement.extras):
            walk(one)

    for text in requirements:
        walk(Requirement(text))
    return found


def _needed(requirements: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What a package says of itself: its expression, its old free text, its classifiers."""
    metadata: Any = distribution.metadata
    classifiers = [one for one in metadata.get_all("Classifier") or [] if one.startswith("License")]
    # A whole licence text may stand in the old field: its first line names it.
    texts = [*(metadata.get_all("License-Expression") or []), *(metadata.get_all("License") or [])]
    own = next(iter(texts), "").strip().partition("\n")[0]
    return "; ".join((own, *classifiers))


def test_every_package_that_a_role_installs_stands_on_the_page() -> None:
    installed = closure(required())

    assert sorted(set(installed) - set(page())) == []
    assert len(installed) >= 70


def test_no_row_of_the_page_is_left_over() -> None:
    assert sorted(set(page()) - set(closure(required()))) == []


def test_the_page_names_the_versions_of_the_constraints() -> None:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    pinned: dict[str, str] = {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    }

    assert {name: row[0] for name, row in page().items() if name in pinned and row[0] != pinned[name]} == {}


def test_no_package_is_under_the_gpl() -> None:
    installed = closure(required())

    assert [name for name, one in installed.items() if FORBIDDEN.search(licence(one))] == []
    assert [name for name, row in page().items() if FORBIDDEN.search(row[1])] == []


def test_every_package_says_its_licence_and_every_row_too() -> None:
    assert [name for name, one in closure(required()).items() if not licence(one).strip("; ")] == []
    assert [name for name, row in page().items() if not row[1]] == []


def test_every_lgpl_package_has_its_note() -> None:
    lesser = {name for name, one in closure(required()).items() if "LGPL" in licence(one) or "Lesser" in licence(one)}

    assert lesser == {"psycopg", "psycopg-binary"}
    assert [name for name in lesser if "LGPL" not in page()[name][3]] == []


@pytest.mark.parametrize(
    ("text", "is_forbidden"),
    [
        ("GPL-3.0-or-later", True),
        ("GPLv3", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-3.0-only", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Apache-2.0 AND MIT", False),
    ],
)
def test_a_gpl_is_recognised(text: str, is_forbidden: bool) -> None:
    assert bool(FORBIDDEN.search(text)) is is_forbidden
