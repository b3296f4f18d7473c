"""Tests of hl7."""
