"""Settings: one typed tree, the environment over the file, and no secret in any text."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from casebook.errors import SettingsError
from casebook.settings import Settings, load_settings

SECRET = "hunter2-secret"
URL = f"postgresql+psycopg://wetread:{SECRET}@db/wetread"
RIS = "{name: ris, kind: hl7, host: localhost, port: 2575, result_status: %s}"


def _load(tmp_path: Path, content: str) -> Settings:
    (tmp_path / "node.yaml").write_text(content, encoding="utf-8")
    return load_settings(tmp_path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings = _load(tmp_path, "")

    assert settings.queue.lease_s == 60.0
    assert settings.listener.host == "127.0.0.1"
    assert settings.config_directory == tmp_path
    assert settings.database_url.endswith("wetread.sqlite")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("queu: {}", "unknown key queu; did you mean queue?"),
        ("queue: {lease: 3}", "unknown key queue.lease; did you mean queue.lease_s?"),
        ("listener: {ae_titel: X}", "did you mean listener.ae_title?"),
        ("database: {urll: x}", "did you mean database.url?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        _load(tmp_path, content)

    assert said in str(refused.value)
    assert str(tmp_path / "node.yaml") in str(refused.value)


def test_an_unknown_key_of_a_destination_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="hsot"):
        _load(tmp_path, "destinations: [{name: ris, kind: hl7, hsot: x, port: 1, result_status: P, host: y}]")


def test_a_line_of_senders_may_name_a_character_set_a_quiet_period_or_both(tmp_path: Path) -> None:
    listener = _load(
        tmp_path,
        """
listener:
  senders:
    - {ae_title: CT1, quiet_period_s: 120}
    - {ae_title: CT1, modality: CT, character_set: GB18030}
    - {ae_title: XR1, character_set: windows-1252, character_set_applies: always}
    - {character_set: ISO_IR 100, quiet_period_s: 5}
""",
    ).listener

    assert listener.quiet_period_of("CT1", "CT") == 120
    assert listener.quiet_period_of("XR1", "DX") == 5
    found = [listener.character_set_of(*asked) for asked in (("CT1", "CT"), ("CT1", "SR"), ("XR1", "DX"))]
    assert [one.character_set for one in found if one] == ["GB18030", "ISO_IR 100", "windows-1252"]
    assert [one.character_set_applies.value for one in found if one] == ["absent", "absent", "always"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{ae_title: CT1}", "needs quiet_period_s or character_set"),
        ("{character_set: GB2O312}", "no character set has this name"),
        ("{character_set: utf-16}", "no character set has this name"),
        ("{character_set: ''}", "no character set has this name"),
        ("{character_set: GBK, character_set_applies: sometimes}", "character_set_applies"),
    ],
)
def test_a_line_of_senders_that_says_nothing_usable_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        _load(tmp_path, f"listener: {{senders: [{line}]}}")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WETREAD_QUEUE__LEASE_S", "90")

    settings = _load(tmp_path, "queue: {lease_s: 30, hard_limit_s: 500}")
    assert (settings.queue.lease_s, settings.queue.hard_limit_s) == (90.0, 500.0)


def test_a_mistyped_variable_of_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WETREAD_QUEU__LEASE_S", "90")

    with pytest.raises(SettingsError, match="WETREAD_QUEU__LEASE_S"):
        _load(tmp_path, "")


def test_a_mistyped_inner_variable_of_the_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WETREAD_QUEUE__LEASE", "90")

    with pytest.raises(SettingsError, match="lease"):
        _load(tmp_path, "")


def test_a_variable_that_is_no_json_is_a_settings_error_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WETREAD_DESTINATIONS", SECRET)

    with pytest.raises(SettingsError) as refused:
        _load(tmp_path, "")
    assert SECRET not in str(refused.value)


def test_secrets_are_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WETREAD_BROKER__URL", f"amqp://guest:{SECRET}@mq//")
    settings = _load(tmp_path, f"database: {{url: '{URL}'}}")

    assert settings.database_url == URL
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text


@pytest.mark.parametrize(
    "content",
    [
        f"database: {{url: ['{URL}']}}",
        f"database: '{URL}'",
        f"queue: {{lease_s: '{SECRET}'}}",
        f"listener: {{ae_title: '{SECRET * 3}'}}",
        f"database: {{url: '{URL}'",
        f"broker: {{url: {{password: {SECRET}}}}}",
    ],
)
def test_a_wrong_file_is_refused_without_its_values(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingsError) as refused:
        _load(tmp_path, content)

    assert SECRET not in str(refused.value)
    assert "node.yaml" in str(refused.value)


@pytest.mark.parametrize("status", ["F", "C", "'final'", "''", "null"])
def test_a_result_can_never_be_called_final(tmp_path: Path, status: str) -> None:
    with pytest.raises(SettingsError, match="result_status"):
        _load(tmp_path, f"destinations: [{RIS % status}]")


@pytest.mark.parametrize("status", ["P", "R"])
def test_a_result_is_preliminary_or_stored(tmp_path: Path, status: str) -> None:
    assert _load(tmp_path, f"destinations: [{RIS % status}]").destination("ris").name == "ris"


def test_the_result_status_has_to_be_stated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="result_status"):
        _load(tmp_path, "destinations: [{name: ris, kind: hl7, host: localhost, port: 1}]")


def test_a_destination_name_stands_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="twice"):
        _load(tmp_path, f"destinations: [{RIS % 'P'}, {RIS % 'R'}]")


def test_an_unknown_destination_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        _load(tmp_path, "").destination("nowhere")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        setattr(Settings(), "queue", Settings().queue)  # noqa: B010 - mypy knows it is read-only


@pytest.mark.parametrize("content", ["- a", "just text", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingsError, match="mapping"):
        _load(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"node\.yaml"):
        load_settings(tmp_path)


def test_a_file_of_bytes_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_bytes(b"\xff\xfe\x00queue")

    with pytest.raises(SettingsError, match=r"node\.yaml"):
        load_settings(tmp_path)


def test_the_first_sender_that_fits_decides_the_quiet_period(tmp_path: Path) -> None:
    listener = _load(
        tmp_path,
        "listener: {quiet_period_s: 30, senders: ["
        "{ae_title: CT1, modality: CT, quiet_period_s: 120}, {modality: CT, quiet_period_s: 60}]}",
    ).listener

    assert listener.quiet_period_of("CT1", "CT") == 120
    assert listener.quiet_period_of("CT2", "CT") == 60
    assert listener.quiet_period_of("CT1", "DX") == 30
