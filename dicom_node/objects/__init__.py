"""What a DICOM object says of itself."""
