"""Tests of the compressed pixel data."""
