"""OHIF in a headless browser: what a radiologist sees of a study that lies in an archive."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from integration_tests import foreign

_DIST = foreign.PEERS / "ohif" / "dist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One piece of text in the viewer's report."""

    text: str
    #: Where the text ends on the screen, in pixels from the left.
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the viewer shows after a double click on the first series without pictures."""

    #: Captions of all such series, top to bottom, as far as they are shown.
    series: tuple[str, ...]
    #: The whole report, as a person reads it.
    text: str
    rows: tuple[Row, ...]
    #: Where the report's pane ends, in pixels from the left.
    right: int
    #: The pane has to be moved to be read.
    scrolls_sideways: bool

    def clipped(self) -> list[str]:
        """Return what runs off the right edge."""
        return [row.text for row in self.rows if row.right > self.right]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ohif:
    """The running viewer."""

    port: int
    folder: Path
    _profiles: Iterator[int]

    def open(self, study_instance_uid: str, *, screenshot: Path | None = None) -> Shown:
        """Open a study and its report; takes some twenty seconds.

        Parameters
        ----------
        study_instance_uid
            Of a study in the archive with a series without pictures.
        screenshot
            PNG to write.
        """
        url = f"http://{foreign.LOOPBACK}:{self.port}/viewer?StudyInstanceUIDs={study_instance_uid}"
        # A viewer that remembers an earlier visit would show what lay in the archive then.
        profile = self.folder / f"profile{next(self._profiles)}"
        command: list[str | Path] = ["node", foreign.PEERS / "ohif_browser.cjs", url, profile]
        done = foreign.run([*command, *([screenshot] if screenshot else [])], timeout_s=170)
        if done.returncode != 0:
            raise RuntimeError(f"the browser ended with {done.returncode}: {done.stderr[-2000:]}")
        seen = json.loads(done.stdout)
        return Shown(
            series=tuple(seen["series"]),
            text=seen["text"],
            rows=tuple(Row(text=row["text"], right=row["right"]) for row in seen["rows"]),
            right=seen["right"],
            scrolls_sideways=seen["scrolls_sideways"],
        )


@contextmanager
def ohif(folder: Path, archive: foreign.Orthanc) -> Iterator[Ohif]:
    """Serve OHIF beside an archive's DICOMweb.

    Parameters
    ----------
    folder
        Holds its log and the browser's profiles.
    archive
        Where the studies lie.

    Yields
    ------
        The running viewer; without OHIF or Chromium the test skips (or fails where peers are required).
    """
    foreign.program("chromium")
    foreign.node_package("playwright-core")
    if not (_DIST / "index.html").exists():
        foreign.refuse_or_skip("OHIF is not installed (make peers)")
    folder.mkdir(parents=True, exist_ok=True)
    port = foreign.free_port()
    url = f"http://{foreign.LOOPBACK}:{archive.http_port}"
    server: list[str | Path] = [sys.executable, foreign.PEERS / "ohif_server.py", str(port), _DIST, url]
    with foreign.process(server, log=folder / "server.log", ports=[port]):
        yield Ohif(port=port, folder=folder, _profiles=count(1))
