"""A Reading keeps its bytes, whatever fields come later."""

from dataclasses import replace

from casebook.reading import from_bytes

#: As the first version froze it.
FORMAT_1 = (
    b'{"answers":[{"answer":"no","answer_code":null,"answer_id":"no","calibrated":false,"check_id":"pneumothorax",'
    b'"finding_code":null,"label":"Pneumothorax","probability":0.97,"question":"Is there a pneumothorax?",'
    b'"undetermined":false}],"based_on_images":1,"completion_reason":"quiet","created_at":1789000000.7,"format":1,'
    b'"generation":1,"header":{"admission_id":"","identity":{"accession_number":"A1","issuer_of_patient_id":"",'
    b'"patient_birth_date":"","patient_id":"P1"},"patient_age":"","patient_name":"","patient_sex":"",'
    b'"procedure_codes":[],"referring_physician_name":"","study_date":"","study_description":"","study_id":"",'
    b'"study_time":"","timezone_offset_from_utc":""},"images":[],"known_images":1,"language":"en","modality":"DX",'
    b'"notes":[],"provenance":{"check_preset":"chest","check_preset_sha256":"2","check_preset_version":"1",'
    b'"content_qualification":"RESEARCH","decoding":"greedy","model_name":"phantom-cxr","model_sha256":"0",'
    b'"model_version":"1.0","pipeline":"chest","prompt_sha256":"1","software_version":"0.1.0"},'
    b'"sections":[{"kind":"findings","paragraphs":["Heart normal. Lungs clear."]}],"study_instance_uid":"1.2.3"}'
)


def test_a_reading_of_the_first_version_is_read_and_keeps_its_bytes() -> None:
    said = from_bytes(FORMAT_1)

    assert said.format == 1
    assert said.answers[0].answer == "no"
    assert not said.answers[0].is_ruled_out
    assert said.to_bytes() == FORMAT_1


def test_an_answer_that_is_ruled_out_stays_so() -> None:
    said = from_bytes(FORMAT_1)
    ruled_out = replace(said, answers=tuple(replace(one, is_ruled_out=True) for one in said.answers))

    assert from_bytes(ruled_out.to_bytes()) == ruled_out
    assert ruled_out.sha256 != said.sha256
