"""HL7 version 2: segments, structure, MLLP."""
