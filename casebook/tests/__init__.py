"""Unit tests of casebook."""
