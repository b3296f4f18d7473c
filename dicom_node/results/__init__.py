"""What goes out: the draft as DICOM SR and as HL7, its guards, and its sending."""
