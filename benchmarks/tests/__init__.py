"""Tests of what benchmarks and proofs leave behind."""
