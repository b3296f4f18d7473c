"""Which machine this is: one DeviceUID an installation, former ones known, and no demonstration beyond loopback."""

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from casebook import database, device, tables
from casebook.case import Case
from casebook.errors import SettingsError
from casebook.flow import load_case
from casebook.outcomes import Drafted
from casebook.settings import SHIPPED_DEVICE_UID, DeviceSettings, Settings, load_settings
from casebook.testing import a_pipeline, a_reading, a_wiring, empty_postgresql, sqlite_database
from casebook.wiring import settle_device, wire
from integration_tests.foreign import refuse_or_skip

NAMED = {"institution_name": "St. Elsewhere", "device_serial_number": "WR-7", "timezone": "Europe/Berlin"}


def settle(engine: Engine, stated: str = "") -> str:
    with database.write(engine) as connection:
        return device.settle(connection, stated=stated, now=1.0)


def known(engine: Engine) -> frozenset[str]:
    with database.read(engine) as connection:
        return device.known_uids(connection)


# ---- the DeviceUID -----------------------------------------------------------------------------------------


def test_the_first_start_generates_a_uid_and_every_later_one_finds_it(engine: Engine) -> None:
    first, second = settle(engine), settle(engine)

    assert re.fullmatch(r"2\.25\.[1-9]\d{20,38}", first)
    assert first == second
    assert first != SHIPPED_DEVICE_UID


def test_two_installations_never_share_one() -> None:
    with sqlite_database() as here, sqlite_database() as there:
        assert settle(here) != settle(there)


def test_a_uid_that_the_site_states_is_the_current_one_and_the_earlier_ones_stay_known(engine: Engine) -> None:
    generated = settle(engine)
    stated, later = settle(engine, "1.2.3.4"), settle(engine, "1.2.3.5")

    assert (stated, later) == ("1.2.3.4", "1.2.3.5")
    # The key was taken out of node.yaml again: nothing changes.
    assert settle(engine) == "1.2.3.5"
    assert known(engine) == {generated, "1.2.3.4", "1.2.3.5", SHIPPED_DEVICE_UID}
    assert settle(engine, "1.2.3.4") == "1.2.3.4"


def test_the_uid_that_every_installation_had_is_known_before_the_first_start(engine: Engine) -> None:
    assert known(engine) == {SHIPPED_DEVICE_UID}


def _start(url: str, barrier: Any, told: Any) -> None:
    engine = database.open_database(url)
    barrier.wait(60)
    told.put(settle(engine))
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nodes_that_start_at_once_agree_on_one_uid(tmp_path: Path, kind: str) -> None:
    with empty_postgresql() as url:
        if kind == "postgresql" and url is None:
            refuse_or_skip("no PostgreSQL answers (WETREAD_TEST_POSTGRESQL_URL)")
        address = url if kind == "postgresql" and url else f"sqlite:///{tmp_path / 'wetread.sqlite'}"
        engine = database.open_database(address)
        database.migrate(engine)
        context = multiprocessing.get_context("spawn")
        barrier, told = context.Barrier(4), context.Queue()
        nodes = [context.Process(target=_start, args=(address, barrier, told)) for _ in range(4)]
        for node in nodes:
            node.start()
        found = {told.get(timeout=60) for _ in nodes}
        for node in nodes:
            node.join(60)

        assert len(found) == 1
        assert known(engine) == {*found, SHIPPED_DEVICE_UID}
        engine.dispose()


def test_there_is_one_installation_whatever_is_written(engine: Engine) -> None:
    settle(engine)

    with pytest.raises(Exception, match="is_one"), database.write(engine) as connection:
        connection.execute(tables.installation.insert().values(id=2, device_uid="1.2"))
    with database.read(engine) as connection:
        assert len(connection.execute(select(tables.installation)).all()) == 1


def test_a_role_that_starts_records_what_the_settings_state(engine: Engine) -> None:
    wiring = a_wiring(engine, settings=Settings(device=DeviceSettings(device_uid="1.2.3.9")))

    with wiring.read() as connection:
        assert device.current_uid(connection) == "1.2.3.9"
    settle_device(a_wiring(engine))
    assert "1.2.3.9" in known(engine)


def test_a_start_on_a_configuration_folder_names_the_installation(tmp_path: Path) -> None:
    def uid() -> str:
        made = wire(data_directory=tmp_path / "data", migrate=True)
        with made.read() as connection:
            found = device.current_uid(connection)
        made.engine.dispose()
        return found

    assert uid() == uid() != ""


def test_a_result_is_rendered_under_the_uid_of_its_moment(engine: Engine) -> None:
    wiring = a_wiring(engine, pipelines=(a_pipeline(),))
    from casebook import flow, intake, queue
    from casebook.study import CompletionReason
    from casebook.testing import a_received_instance

    def claim(name: str) -> Case:
        with wiring.write() as connection:
            (job,) = queue.claim(connection, queue=name, owner="x", lease_s=9, now=wiring.clock.now(connection))
            if name == "io":
                return load_case(connection, job, wiring.pipelines)
            flow.advance(connection, job, Drafted(reading=a_reading()), terms=wiring.terms(connection))
            return load_case(connection, job, wiring.pipelines)

    with wiring.write() as connection:
        intake.record_instances(connection, [a_received_instance()], wiring.clock.now(connection))
        flow.complete(connection, "1.2.3", terms=wiring.terms(connection), reason=CompletionReason.FORCED)
    assert claim("gpu").device_uid == ""
    settle(engine, "1.2.3.4")

    assert claim("io").device_uid == "1.2.3.4"
    settle(engine, "1.2.3.5")
    assert claim("io").device_uid == "1.2.3.5"


# ---- what a site states ------------------------------------------------------------------------------------


def load(folder: Path, content: str) -> Settings:
    (folder / "node.yaml").write_text(content, encoding="utf-8")
    return load_settings(folder)


@pytest.mark.parametrize(
    "zone",
    ["Mars/Olympus", "Europe", "", "CEST+2 ", "../UTC", "/etc/localtime", "localtime", "europe berlin", "Factory"],
)
def test_a_time_zone_that_does_not_exist_is_refused_with_file_and_line(tmp_path: Path, zone: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, f"listener:\n  port: 0\ndevice:\n  station_name: WR1\n  timezone: '{zone}'\n")

    said = str(refused.value)
    assert str(tmp_path / "node.yaml") in said
    assert "device.timezone (line 5): is no IANA time zone known here; write one like Europe/Berlin" in said


@pytest.mark.parametrize("zone", ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_a_time_zone_that_exists_is_taken(tmp_path: Path, zone: str) -> None:
    assert load(tmp_path, f"device: {{timezone: {zone}}}").device.timezone == zone


def test_a_wrong_value_of_the_environment_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WETREAD_DEVICE__TIMEZONE", "Nowhere/Land")

    with pytest.raises(SettingsError, match=r"device.timezone \(environment variable WETREAD_DEVICE__TIMEZONE\)"):
        load(tmp_path, "device: {timezone: Europe/Berlin}")


@pytest.mark.parametrize(
    "uid", ["2.25.01", "1..2", "1.2.", "x", "3.1.2", "1", "1.2." + "9" * 61, "1.2.3\\4", "1.2 3", SHIPPED_DEVICE_UID]
)
def test_a_device_uid_that_is_none_or_everybodys_is_refused(tmp_path: Path, uid: str) -> None:
    with pytest.raises(SettingsError, match=r"device.device_uid \(line 2\): is .*leave the key out"):
        load(tmp_path, f"device:\n  device_uid: '{uid}'")


@pytest.mark.parametrize("key", ["institution_name", "station_name", "device_serial_number"])
@pytest.mark.parametrize("value", ['" "', '""', '"A\\\\B"', '"A\\nB"', '"A\\0"'])
def test_a_name_that_dicom_cannot_carry_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"device.{key} \(line 1\)"):
        load(tmp_path, f"device: {{{key}: {value}}}")


@pytest.mark.parametrize(
    ("key", "most"), [("institution_name", 64), ("station_name", 16), ("device_serial_number", 64)]
)
def test_a_name_is_as_long_as_its_element_may_be(tmp_path: Path, key: str, most: int) -> None:
    assert getattr(load(tmp_path, f"device: {{{key}: {'W' * most}}}").device, key) == "W" * most
    with pytest.raises(SettingsError, match=key):
        load(tmp_path, f"device: {{{key}: {'W' * (most + 1)}}}")


# ---- beyond loopback ---------------------------------------------------------------------------------------

PACS = {"name": "pacs", "kind": "dicom", "port": 104, "ae_title": "PACS"}
RIS = {"name": "ris", "kind": "hl7", "port": 2575, "result_status": "R"}
BEYOND: list[tuple[str, dict[str, Any]]] = [
    ("listener.host", {"listener": {"host": "0.0.0.0"}}),  # noqa: S104 - nothing listens here
    ("listener.host", {"listener": {"host": "::"}}),
    ("listener.host", {"listener": {"host": "pacs-side"}}),
    ("listener.host", {"listener": {"host": ""}}),
    ("listener.allowed_networks", {"listener": {"allowed_networks": ["127.0.0.0/8", "10.0.0.0/8"]}}),
    ("listener.allowed_networks", {"listener": {"allowed_networks": ["0.0.0.0/0"]}}),
    ("listener.allowed_networks", {"listener": {"allowed_networks": ["::/0"]}}),
    ("archive.host", {"archive": {"host": "10.1.7.4", "port": 104, "ae_title": "PACS"}}),
    ("destination pacs", {"destinations": [{**PACS, "host": "pacs.hospital.example"}]}),
    ("destination ris", {"destinations": [{**PACS, "host": "127.0.0.1"}, {**RIS, "host": "10.1.7.5"}]}),
    ("destination ris", {"destinations": [{**RIS, "host": "localhost.hospital.example"}]}),
]


@pytest.mark.parametrize(("place", "content"), BEYOND)
def test_the_name_of_the_demonstration_never_leaves_this_machine(place: str, content: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        device.require_named(Settings.model_validate(content))

    said = str(refused.value)
    assert place in said
    assert "node.yaml" in said
    for key in ("institution_name", "device_serial_number", "timezone"):
        assert f"device.{key}: write " in said
    device.require_named(Settings.model_validate({**content, "device": NAMED}))


def test_a_port_for_stow_beyond_loopback_needs_a_name_too(tmp_path: Path) -> None:
    tls = {"certificate": tmp_path / "c.pem", "private_key": tmp_path / "k.pem"}
    content = {"stow": {"host": "10.0.0.1", "token": "a-token-of-the-tests-0123456789", "tls": tls}}

    with pytest.raises(SettingsError, match=r"stow\.host"):
        device.require_named(Settings.model_validate(content))


@pytest.mark.parametrize("key", list(NAMED))
def test_each_key_that_a_site_did_not_state_is_named(key: str) -> None:
    stated = {name: value for name, value in NAMED.items() if name != key}

    with pytest.raises(SettingsError, match=f"device.{key}") as refused:
        device.require_named(Settings.model_validate({**BEYOND[0][1], "device": stated}))

    assert not any(f"device.{name}" in str(refused.value) for name in stated)


def test_the_demonstrations_institution_is_no_hospital_where_it_is_written_down() -> None:
    stated = {**NAMED, "institution_name": "Wetread demonstration "}

    with pytest.raises(SettingsError, match="institution_name"):
        device.require_named(Settings.model_validate({**BEYOND[0][1], "device": stated}))


def test_a_hospital_that_states_utc_may_have_it() -> None:
    device.require_named(Settings.model_validate({**BEYOND[0][1], "device": {**NAMED, "timezone": "UTC"}}))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LocalHost.", "::ffff:127.0.0.1"]
)
def test_the_demonstration_keeps_working_on_loopback(host: str) -> None:
    device.require_named(
        Settings.model_validate({"listener": {"host": host}, "destinations": [{**PACS, "host": host}]})
    )
