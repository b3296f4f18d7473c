"""Synthetic chest radiographs with known findings, as arrays and as DICOM; imports no torch."""
