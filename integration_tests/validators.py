"""Four foreign validators of DICOM objects, each as a function from files to findings.

No one of them finds everything: of 24 broken SR documents the best one alone found 18, all together 23.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from integration_tests.foreign import java, run


class Severity(StrEnum):
    """How bad a validator calls what it found."""

    #: The object breaks the standard.
    ERROR = "error"
    #: The object is legal and unusual.
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One complaint of one validator."""

    #: The program that complains.
    validator: str
    severity: Severity
    #: The line it printed.
    text: str


#: Lines that say something about the validator and not about the object.
_IGNORED = re.compile(
    r"VR checker does not support"  # dsrdump 3.6.7 cannot check UTF-8, and says so
    r"|Check for template constraints not yet supported"  # nor the template of a key object selection
    r"|Coding Scheme Designator.*99"  # dicom3tools knows no private coding schemes (PS3.16 8.2 allows them)
    r"|unrecognized.*99[A-Z]"
    r"|Unrecognized defined term = <99[A-Z]"
    r"|CodingSchemeUID.*2\.25"  # nor UUID-derived UIDs for them
    r"|Content Item not in template"  # TID 2000 is extensible (PS3.16), PixelMed reports each extension
    # PixelMed knows English meanings only; PS3.3 8.3 allows translations. A wrong English meaning is still found.
    r"|has different code meaning \(\"[^\"]*[\u3000-\u9fff]"
)
_LEVELS = {"E": Severity.ERROR, "F": Severity.ERROR, "W": Severity.WARNING}


def _finding(validator: str, severity: Severity, line: str) -> list[Finding]:
    if _IGNORED.search(line):
        return []
    return [Finding(validator=validator, severity=severity, text=line.strip())]


def dsrdump(path: Path) -> list[Finding]:
    """Check the content tree of an SR document with DCMTK.

    Parameters
    ----------
    path
        The document.

    Returns
    -------
        Errors and warnings; a document it cannot read at all is an error.
    """
    done = run(["dsrdump", "-v", path])
    lines = [(line[0], line) for line in done.stderr.splitlines() if re.match(r"[EFW]: ", line)]
    found = [finding for level, line in lines for finding in _finding("dsrdump", _LEVELS[level], line)]
    if done.returncode != 0:
        found.append(Finding(validator="dsrdump", severity=Severity.ERROR, text=f"exit status {done.returncode}"))
    return found


def dciodvfy(path: Path) -> list[Finding]:
    """Check one object of any kind against its IOD with dicom3tools.

    Parameters
    ----------
    path
        The object.

    Returns
    -------
        Errors and warnings.
    """
    return _dicom3tools(["dciodvfy", "-new", path])


def dcentvfy(paths: Sequence[Path]) -> list[Finding]:
    """Check with dicom3tools that objects agree on the patient, study and series they share.

    Parameters
    ----------
    paths
        At least two objects, for example the images and the SR that was made of them.

    Returns
    -------
        Errors and warnings; a wrong PatientID is found here and nowhere else.
    """
    return _dicom3tools(["dcentvfy", *paths])


def _dicom3tools(command: Sequence[str | Path]) -> list[Finding]:
    done = run(command)
    name = str(command[0])
    found: list[Finding] = []
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("Error"):
            found += _finding(name, Severity.ERROR, line)
        elif line.startswith("Warning"):
            found += _finding(name, Severity.WARNING, line)
        elif name == "dcentvfy" and done.returncode != 0 and line.strip():
            # dcentvfy prints disagreements without a leading word, and tells by its exit status that it did.
            found += _finding(name, Severity.ERROR, line)
    if done.returncode != 0 and not any(finding.severity is Severity.ERROR for finding in found):
        found.append(Finding(validator=name, severity=Severity.ERROR, text=f"exit status {done.returncode}"))
    return found


#: Java 17 limits the operators of an XPath expression to fewer than PixelMed's templates have.
_NO_XPATH_LIMITS = [f"-Djdk.xml.xpath{kind}Limit=0" for kind in ("ExprOp", "TotalOp", "ExprGrp")]


def pixelmed(path: Path) -> list[Finding]:
    """Check an SR document against its templates (PS3.16) with PixelMed; takes some seconds.

    Parameters
    ----------
    path
        The document.

    Returns
    -------
        Errors and warnings; an error also when no root template was recognised.
    """
    classes = ["-cp", "/usr/share/java/pixelmed.jar", "com.pixelmed.validate.DicomSRValidator"]
    done = run([java(), *_NO_XPATH_LIMITS, *classes, path])
    lines = (done.stdout + done.stderr).splitlines()
    found: list[Finding] = []
    for line in lines:
        if line.startswith("Error"):
            found += _finding("pixelmed", Severity.ERROR, line)
        elif line.startswith("Warning"):
            found += _finding("pixelmed", Severity.WARNING, line)
    # Its exit status is always 0: only this line says that it validated anything.
    if not any("Root Template Validation Complete" in line for line in lines):
        found.append(Finding(validator="pixelmed", severity=Severity.ERROR, text="no root template was validated"))
    return found


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """Keep the findings that break the standard."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]
