"""Everything that speaks to the hospital: DICOM in and out, HL7 in and out, de-identified export."""
