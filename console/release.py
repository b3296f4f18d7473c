"""``wetread release``: a person decides whose a held study is."""

import getpass
from pathlib import Path

import click

from casebook import decisions
from console.options import directories, no_such_study, wire_with_wakeups
from console.screen import say


@click.command
@click.argument("study_instance_uid")
@click.option("--as", "patient_id", required=True, help="PatientID of the images that may be read.")
@click.option("--accession-number", help='Only those with this AccessionNumber; "" for those without one.')
@click.option("--birth-date", help='Only those with this PatientBirthDate, YYYYMMDD; "" for those without one.')
@click.option("--issuer", help='Only those with this IssuerOfPatientID; "" for those without one.')
@click.option("--patient-name", help='Only those with this PatientName, as it is written; "" for those without one.')
@click.option("--sex", help='Only those with this PatientSex; "" for those without one.')
@directories
def release(
    study_instance_uid: str,
    *,
    patient_id: str,
    accession_number: str | None,
    birth_date: str | None,
    issuer: str | None,
    patient_name: str | None,
    sex: str | None,
    config_directory: Path | None,
    data_directory: Path | None,
) -> None:
    """Let a held study go on with only the images of one patient; no image is re-labelled."""
    wiring = wire_with_wakeups(config_directory, data_directory)
    try:
        with wiring.write() as connection:
            kept = decisions.release(
                connection,
                study_instance_uid,
                patient_id=patient_id,
                accession_number=accession_number,
                patient_birth_date=birth_date,
                issuer_of_patient_id=issuer,
                patient_name=patient_name,
                patient_sex=sex,
                strict=wiring.settings.identity.strict,
                now=wiring.clock.now(connection),
                actor=f"person {getpass.getuser()}",
            )
    except KeyError:
        raise no_such_study(study_instance_uid) from None
    say(f"Released: the draft will read {kept} {'image' if kept == 1 else 'images'} and say so.")
