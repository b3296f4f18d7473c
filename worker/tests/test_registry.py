"""A model entry is whole or refused, and a model is known by its bytes."""

from pathlib import Path

import pytest

from casebook.errors import ModelRefused, SettingsError
from worker.reader.registry import digest, find_entry, load_entry, load_registry

CONFIG = Path(__file__).resolve().parent.parent.parent / "config" / "models"
ENTRY = """\
name: tiny
version: "1"
kind: native
directory: models/tiny
licence: Apache-2.0
clinical: false
languages: [en]
modalities: [CR]
image: {size: 28, mean: [0.5, 0.5, 0.5], std: [0.3, 0.3, 0.3]}
prompts: {draft: {en: Describe this.}}
"""


def place(root: Path, text: str = ENTRY, name: str = "tiny.yaml") -> Path:
    folder = root / "config" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_shipped_entry_loads() -> None:
    entries = load_registry(CONFIG)

    assert len(entries) == len(list(CONFIG.glob("*.yaml"))) >= 1
    assert find_entry(entries, "phantom-cxr").content_qualification == "RESEARCH"


def test_a_relative_directory_counts_from_beside_the_configuration(tmp_path: Path) -> None:
    assert load_entry(place(tmp_path)).directory == tmp_path / "models" / "tiny"


def test_a_site_that_copied_only_the_configuration_gets_the_shipped_model(tmp_path: Path) -> None:
    shipped = (CONFIG / "phantom-cxr.yaml").read_text(encoding="utf-8")

    entry = load_entry(place(tmp_path, shipped))

    assert entry.directory == CONFIG.parent.parent / "models" / "phantom-cxr"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("version:", "verison:", "verison"),
        ("size: 28", "sise: 28", "image.sise"),
        ("size: 28", "size: 0", "image.size"),
        ("0.3, 0.3, 0.3", "0.3, 0.3, 0", "standard deviation"),
        ("kind: native", "kind: pickle", "kind"),
        ("directory: models/tiny", "", "needs its directory"),
        ("kind: native", "kind: unavailable", "needs the reason"),
        ("languages: [en]", "languages: [en, zh]", "misses the language zh"),
        ("clinical: false", "clinical: false\ncontent_qualification: CLEARED", "content_qualification"),
    ],
)
def test_a_wrong_entry_is_refused_by_the_name_of_its_key(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in ENTRY
    path = place(tmp_path, ENTRY.replace(old, new))

    with pytest.raises(SettingsError) as caught:
        load_entry(path)

    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    place(tmp_path)
    place(tmp_path, name="other.yaml")

    with pytest.raises(SettingsError, match="already names a model tiny"):
        load_registry(tmp_path / "config" / "models")


def test_an_unknown_model_is_answered_with_those_there_are(tmp_path: Path) -> None:
    entries = load_registry(place(tmp_path).parent)

    with pytest.raises(SettingsError, match="no model is named large; config/models has tiny"):
        find_entry(entries, "large")


def test_the_digest_changes_with_a_byte_and_with_a_name_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_bytes(b"12")
    (tmp_path / "config").write_bytes(b"3")
    before = digest(tmp_path)

    (tmp_path / ".cache").write_bytes(b"hidden files are no part of a model")
    assert digest(tmp_path) == before

    (tmp_path / "a" / "weights").write_bytes(b"13")
    changed = digest(tmp_path)
    (tmp_path / "a" / "weights").write_bytes(b"12")
    (tmp_path / "config").rename(tmp_path / "settings")

    assert len({before, changed, digest(tmp_path)}) == 3


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="no model lies here"):
        digest(tmp_path / "none")


def test_the_pictures_of_an_entry_lie_beside_it_or_with_the_shipped_ones(tmp_path: Path) -> None:
    shipped = (CONFIG / "phantom-cxr.yaml").read_text(encoding="utf-8")
    (tmp_path / "models").mkdir()
    copied = tmp_path / "models" / "phantom-cxr.yaml"
    copied.write_text(shipped, encoding="utf-8")
    lost = tmp_path / "models" / "lost.yaml"
    lost.write_text(shipped.replace("pictures/phantom-cxr.yaml", "pictures/nowhere.yaml"), encoding="utf-8")

    assert load_entry(copied).pictures == CONFIG / "pictures" / "phantom-cxr.yaml"
    with pytest.raises(SettingsError, match=r"no such file: pictures/nowhere\.yaml"):
        load_entry(lost)
