"""The verbs: what they print, what they change, their exit codes, and what they load."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from casebook import audit, destinations, intake, queue, store, tables
from casebook.errors import SchemaMismatch, SettingsError, UnsafeStorage
from casebook.logs import configure_logs
from casebook.settings import SHIPPED_CONFIG_DIRECTORY
from casebook.study import InstanceStatus, StudyState
from casebook.testing import a_received_instance
from casebook.wiring import Wiring, wire
from console.__main__ import cli
from integration_tests.foreign import free_port

STUDY = "1.2.3"
REPOSITORY = SHIPPED_CONFIG_DIRECTORY.parent


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the shipped configuration."""
    return Path(shutil.copytree(SHIPPED_CONFIG_DIRECTORY, tmp_path / "config"))


@pytest.fixture
def wiring(config: Path, tmp_path: Path) -> Iterator[Wiring]:
    """An embedded database with one study of two patients that is still received."""
    made = wire(config, tmp_path / "data", migrate=True)
    with made.write() as connection:
        now = made.clock.now(connection)
        received = [
            a_received_instance(number, patient_id=f"SECRET-{number}", received_at=now, quiet_period_s=300)
            for number in (1, 2)
        ]
        intake.record_instances(connection, received, now)
    yield made
    made.engine.dispose()


def call(wiring: Wiring, *arguments: str) -> Result:
    settings = wiring.settings
    where = ["--config", str(settings.config_directory), "--data", str(settings.data_directory)]
    return CliRunner().invoke(cli, [*arguments, *where])


def state_of(wiring: Wiring) -> StudyState:
    with wiring.read() as connection:
        return store.get_study(connection, STUDY).state


@pytest.mark.parametrize(
    "verb", [["status"], ["why", STUDY], ["retry", STUDY], ["close", STUDY], ["dismiss", STUDY, "--reason", "x"]]
)
def test_a_verb_that_looks_loads_neither_the_model_nor_the_dicom_network(wiring: Wiring, verb: list[str]) -> None:
    settings = wiring.settings
    program = (
        "import sys\n"
        "class Forbid:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'transformers', 'pynetdicom', 'pydicom', 'training', 'worker'}:\n"
        "            raise AssertionError(f'{name} was loaded')\n"
        "sys.meta_path.insert(0, Forbid())\n"
        "from console.__main__ import main\n"
        f"sys.argv = {['wetread', *verb]!r} + {['--config', str(settings.config_directory)]!r}"
        f" + {['--data', str(settings.data_directory)]!r}\n"
        "main()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )

    assert "was loaded" not in done.stderr, done.stderr
    assert done.returncode in (0, 1, 2)
    assert "Traceback" not in done.stderr, done.stderr


def test_status_needs_attention_where_nothing_runs(wiring: Wiring) -> None:
    done = call(wiring, "status")

    assert done.exit_code == 1
    assert "received 1 studies (2 images)" in done.output
    assert "nothing runs here: wetread up" in done.output
    assert f"oldest      {STUDY} received" in done.output
    assert "SECRET" not in done.output


def _let_fail(wiring: Wiring, *, for_s: float) -> None:
    with wiring.write() as connection:
        now = wiring.clock.now(connection)
        destinations.register(connection, "ris", "hl7")
        queue.enqueue(
            connection,
            step="send",
            queue="io",
            idempotency_key="send",
            study_instance_uid=STUDY,
            generation=1,
            subject="ris",
            lock="ris",
            max_attempts=5,
            now=now,
        )
        connection.execute(
            tables.destination.update().values(
                failing_since=now - for_s, next_try=now + 20, reason="peer_unavailable", detail="It was silent."
            )
        )


def test_status_names_a_failing_destination_at_once_and_needs_a_person_after_a_minute(wiring: Wiring) -> None:
    _let_fail(wiring, for_s=30.0)
    early = call(wiring, "status")
    _let_fail(wiring, for_s=61.0)
    late = call(wiring, "status")

    assert re.search(
        r"failing     ris since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d   1 waiting   next try in (20|19) s   "
        r"peer unavailable: It was silent\n",
        early.output,
    )
    assert "destination ris" not in early.output
    assert "destination ris takes nothing since 00:01:01: wetread test-destination ris" in late.output
    assert late.exit_code == 1
    assert json.loads(call(wiring, "status", "--json").output)["overview"]["failing"][0]["backlog"] == 1


def test_a_destination_that_nothing_listens_for_is_told_in_words(wiring: Wiring) -> None:
    port = free_port()
    (wiring.settings.config_directory / "node.yaml").write_text(
        f"destinations: [{{name: ris, kind: hl7, host: 127.0.0.1, port: {port}, result_status: R}}]"
    )
    refused, unknown = call(wiring, "test-destination", "ris"), call(wiring, "test-destination", "pacs")

    assert (refused.exit_code, unknown.exit_code) == (1, 2)
    assert refused.output == (
        f"127.0.0.1:{port} refuses the connection: nothing listens on this port.\nris cannot be sent to.\n"
    )
    assert "there are: ris" in unknown.output


def test_a_destination_that_answers_can_be_sent_to(wiring: Wiring) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        (wiring.settings.config_directory / "node.yaml").write_text(
            "destinations: [{name: ris, kind: hl7, host: 127.0.0.1, "
            f"port: {listening.getsockname()[1]}, result_status: R}}]"
        )
        done = call(wiring, "test-destination", "ris")

    assert done.exit_code == 0
    assert done.output.endswith("ris can be sent to.\n")


def test_status_says_the_same_to_machines(wiring: Wiring) -> None:
    found = json.loads(call(wiring, "status", "--json").output)

    assert found["overview"]["received_images"] == 2
    assert found["overview"]["counts"] == {"received": 1}
    assert found["overview"]["oldest"]["study_instance_uid"] == STUDY
    assert found["attention"] == ["nothing runs here: wetread up"]


def test_status_names_what_the_disk_does_not_give_out(wiring: Wiring) -> None:
    received = a_received_instance(1)
    with wiring.write() as connection:
        now = wiring.clock.now(connection)
        told = {
            "object_set_aside": "header_over_bounds: inbox/00/1.dcm",
            "object_not_read": "inbox/00/2.dcm",
            "first_copy_not_read": received.path,
        }
        for action, detail in told.items():
            study = STUDY if action == "first_copy_not_read" else ""
            audit.record(connection, at=now, actor="listener", action=action, study_instance_uid=study, detail=detail)
        # Read after all, and set aside after all.
        for detail in (received.path, "inbox/00/1.dcm"):
            audit.record(connection, at=now, actor="listener", action="object_not_read", detail=detail)
        store.set_instance_status(connection, received.path, InstanceStatus.UNCLASSED)

    done = call(wiring, "status")

    assert done.exit_code == 1
    assert "1 received image set aside in the last day: look into inbox-refused" in done.output
    assert "1 received image cannot be read: look at the disk" in done.output
    assert "1 received image cannot be compared, because the first copy cannot be read" in done.output
    assert "first copy not read" in call(wiring, "why", STUDY).output


def test_close_decides_at_once_and_why_names_patients_only_on_request(wiring: Wiring) -> None:
    closed, again = call(wiring, "close", STUDY), call(wiring, "close", STUDY)

    assert closed.exit_code == 0
    assert state_of(wiring) is StudyState.HELD
    assert again.exit_code == 2
    plain, named = call(wiring, "why", STUDY), call(wiring, "why", STUDY, "--show-patient-ids")
    assert plain.exit_code == named.exit_code == 1
    assert "SECRET" not in plain.output
    assert "SECRET-1" in named.output
    assert "SECRET" not in call(wiring, "why", STUDY, "--json").output


def test_what_a_header_or_a_person_wrote_is_shown_harmlessly(config: Path, tmp_path: Path) -> None:
    made = wire(config, tmp_path / "data", migrate=True)
    with made.write() as connection:
        now = made.clock.now(connection)
        received = [
            a_received_instance(number, patient_id=f"P\u202e{number}", received_at=now, quiet_period_s=300)
            for number in (1, 2)
        ]
        intake.record_instances(connection, received, now)
    try:
        call(made, "close", STUDY)
        shown = call(made, "why", STUDY, "--show-patient-ids").output
        unknown = call(made, "why", "1.2\x9b2J\u202e")
    finally:
        made.engine.dispose()

    assert "P\\u202e1" in shown
    assert "no study 1.2\\x9b2J\\u202e is known" in unknown.output
    assert unknown.exit_code == 2
    assert not {"\u202e", "\x9b"} & set(shown + unknown.output)


def test_a_data_directory_that_others_can_look_into_stops_every_verb_with_what_to_do(wiring: Wiring) -> None:
    wiring.settings.data_directory.chmod(0o755)

    refused = [call(wiring, *verb) for verb in (["status"], ["why", STUDY], ["migrate"], ["up"])]

    assert [type(one.exception) for one in refused] == [UnsafeStorage] * 4
    assert all(f"chmod 700 {wiring.settings.data_directory}" in str(one.exception) for one in refused)


def test_release_lets_a_held_study_go_on_with_one_patient(wiring: Wiring) -> None:
    call(wiring, "close", STUDY)

    wrong, right = call(wiring, "release", STUDY, "--as", "NOBODY"), call(wiring, "release", STUDY, "--as", "SECRET-1")

    assert wrong.exit_code == 1
    assert right.exit_code == 0
    assert "will read 1 image" in right.output
    assert state_of(wiring) is StudyState.RECEIVED


def test_release_takes_the_rest_of_the_identity(wiring: Wiring) -> None:
    call(wiring, "close", STUDY)
    choice = ["release", STUDY, "--as", "SECRET-1", "--birth-date", "", "--issuer", ""]

    wrong = call(wiring, *choice, "--accession-number", "A-9")
    right = call(wiring, *choice, "--accession-number", "")

    assert (wrong.exit_code, right.exit_code) == (1, 0)


@pytest.mark.parametrize(
    "verb", [["why"], ["retry"], ["close"], ["release", "--as", "P"], ["dismiss", "--reason", "x"]]
)
def test_an_unknown_study_is_wrong_usage(wiring: Wiring, verb: list[str]) -> None:
    done = call(wiring, verb[0], "9.9.9", *verb[1:])

    assert done.exit_code == 2
    assert "no study 9.9.9 is known here" in done.output


def test_retry_of_a_study_of_which_nothing_died_is_wrong_usage(wiring: Wiring) -> None:
    assert call(wiring, "retry", STUDY).exit_code == 2


def test_retry_wants_one_study_or_all(wiring: Wiring) -> None:
    assert call(wiring, "retry").exit_code == 2
    assert call(wiring, "retry", STUDY, "--all").exit_code == 2


def test_retry_looks_anew_at_a_study_that_was_refused(wiring: Wiring) -> None:
    with wiring.write() as connection:
        store.set_state(connection, STUDY, StudyState.REFUSED, now=wiring.clock.now(connection), reason="x")

    done = call(wiring, "retry", STUDY)

    assert done.exit_code == 0, done.output
    assert "looked at anew" in done.output
    assert state_of(wiring) is StudyState.RECEIVED


def test_retry_all_revives_what_died_in_every_study(wiring: Wiring) -> None:
    for uid in (STUDY, "1.2.4"):
        with wiring.write() as connection:
            now = wiring.clock.now(connection)
            intake.record_instances(connection, [a_received_instance(9, study=uid, received_at=now)], now)
            queue.enqueue(
                connection,
                step="read",
                queue="gpu",
                idempotency_key=uid,
                study_instance_uid=uid,
                generation=1,
                max_attempts=1,
                now=now - 1,
            )
            (job,) = queue.claim(connection, queue="gpu", owner="me", lease_s=60, now=now)
            queue.bury(connection, job, now=now, reason="x", detail="")
            store.set_state(connection, uid, StudyState.DEAD, now=now)

    done = call(wiring, "retry", "--all")

    assert done.output == "2 steps of 2 studies will be tried again.\n"
    assert state_of(wiring) is StudyState.COMPLETE


def test_dismiss_ends_what_nobody_can_mend(wiring: Wiring) -> None:
    call(wiring, "close", STUDY)
    assert "1 held" in call(wiring, "status").output

    done, again = (call(wiring, "dismiss", STUDY, "--reason", "Wrong patient, mended in the PACS.") for _ in range(2))

    assert (done.exit_code, again.exit_code) == (0, 2), done.output
    assert state_of(wiring) is StudyState.CLOSED
    assert "held 0" in call(wiring, "status").output
    why = call(wiring, "why", STUDY)
    assert why.exit_code == 0
    assert "Dismissed by a person" in why.output
    assert "dismissed by person " in why.output
    assert "Wrong patient, mended in the PACS." in why.output


@pytest.mark.parametrize("reason", ["", " ", "\n", "x" * 501])
def test_dismiss_wants_a_reason(wiring: Wiring, reason: str) -> None:
    call(wiring, "close", STUDY)

    done = call(wiring, "dismiss", STUDY, "--reason", reason)

    assert done.exit_code == 2
    assert state_of(wiring) is StudyState.HELD
    assert call(wiring, "dismiss", STUDY).exit_code == 2


def test_a_study_that_waits_for_nobody_is_not_dismissed(wiring: Wiring) -> None:
    done = call(wiring, "dismiss", STUDY, "--reason", "x")

    assert done.exit_code == 2
    assert "it is received" in done.output
    assert state_of(wiring) is StudyState.RECEIVED


def test_the_words_of_a_dismissal_are_in_no_log(wiring: Wiring, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs("test")
    call(wiring, "close", STUDY)
    call(wiring, "dismiss", STUDY, "--reason", "PLANTED words")

    found = capfd.readouterr()
    assert "PLANTED" not in found.err + found.out


def test_close_is_signed_by_the_person(wiring: Wiring) -> None:
    call(wiring, "close", STUDY)

    assert "declared complete by person " in call(wiring, "why", STUDY).output


def test_migrate_makes_the_schema_that_status_refuses_to_do_without(config: Path, tmp_path: Path) -> None:
    where = ["--config", str(config), "--data", str(tmp_path / "new")]

    before = CliRunner().invoke(cli, ["status", *where])
    migrated = CliRunner().invoke(cli, ["migrate", *where])
    after = CliRunner().invoke(cli, ["status", *where])

    assert isinstance(before.exception, SchemaMismatch)
    assert migrated.exit_code == 0
    assert "last hour" in after.output


def test_config_check_passes_the_shipped_configuration(config: Path) -> None:
    done = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert done.exit_code == 0, done.output
    assert done.output.count("ok  ") == 4


def test_config_check_warns_of_a_model_that_is_not_for_patients(config: Path) -> None:
    entry = config / "models" / "phantom-cxr.yaml"

    research = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])
    entry.write_text(entry.read_text().replace("clinical: false", "clinical: true"))
    clinical = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    (warning,) = [line for line in research.output.splitlines() if line.startswith("warn")]
    assert "pipeline chest_xray reads with phantom-cxr" in warning
    assert "its drafts are not for patients" in warning
    assert (research.exit_code, clinical.exit_code) == (0, 0)
    assert "warn" not in clinical.output


def test_config_check_refuses_an_hl7_destination_without_its_result_status_and_names_both_prices(config: Path) -> None:
    node = yaml.safe_load((config / "node.yaml").read_text())
    del node["destinations"][1]["result_status"]
    (config / "node.yaml").write_text(yaml.safe_dump(node))

    done = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert done.exit_code == 1
    assert "result_status" in done.output
    assert "turn it into a *verified* one" in done.output
    assert "take it as a withdrawal" in done.output


def _beyond_loopback(config: Path, **device: str) -> None:
    node = yaml.safe_load((config / "node.yaml").read_text())
    node["destinations"][0]["host"] = "10.1.7.4"
    if device:
        node["device"] = device
    (config / "node.yaml").write_text(yaml.safe_dump(node))


def test_config_check_and_up_refuse_the_demonstrations_name_beyond_loopback(config: Path, tmp_path: Path) -> None:
    _beyond_loopback(config)

    checked = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])
    started = CliRunner().invoke(cli, ["up", "--config", str(config), "--data", str(tmp_path / "data")])

    assert checked.exit_code == 1
    (said,) = [line for line in checked.output.splitlines() if line.startswith("fail")]
    assert isinstance(started.exception, SettingsError)
    for text in (said, str(started.exception)):
        assert str(config / "node.yaml") in text
        for key in ("institution_name", "device_serial_number", "timezone"):
            assert f"device.{key}: write" in text
        assert "destination pacs" in text
    assert not (tmp_path / "data").exists()


def test_config_check_passes_a_site_that_says_who_it_is(config: Path) -> None:
    _beyond_loopback(
        config, institution_name="St. Elsewhere", device_serial_number="WR-0001", timezone="America/New_York"
    )

    assert CliRunner().invoke(cli, ["config", "check", "--config", str(config)]).exit_code == 0


def test_config_check_names_the_line_of_a_time_zone_that_does_not_exist(config: Path) -> None:
    path = config / "node.yaml"
    path.write_text(f"device:\n  timezone: Europe/Nowhere\n{path.read_text()}")

    done = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert done.exit_code == 1
    assert f"{path}: device.timezone (line 2): is no IANA time zone" in done.output


def test_config_check_names_a_destination_that_does_not_exist(config: Path) -> None:
    path = config / "pipelines" / "chest_xray.yaml"
    path.write_text(path.read_text().replace("[pacs, ris]", "[pacs, archive]"))

    done = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert done.exit_code == 1
    assert "no destination is named archive" in done.output


def test_config_check_names_a_model_that_is_not_there(config: Path) -> None:
    entry = config / "models" / "phantom-cxr.yaml"
    entry.write_text(entry.read_text().replace("directory: models/phantom-cxr", "directory: models/nowhere"))

    done = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])

    assert done.exit_code == 1
    assert f"{config.parent / 'models' / 'nowhere'} does not exist" in done.output
    assert "warn" not in done.output


def test_every_verb_has_help() -> None:
    verbs = cli.list_commands(None)  # type: ignore[arg-type]

    assert len(verbs) >= 10
    for verb in verbs:
        done = CliRunner().invoke(cli, [verb, "--help"])
        assert done.exit_code == 0, done.output


def test_send_wants_an_address_it_can_read(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["send", str(tmp_path), "--to", "nonsense"]).exit_code == 2
    assert CliRunner().invoke(cli, ["send", str(tmp_path), "--to", "A@127.0.0.1:104"]).exit_code == 2
