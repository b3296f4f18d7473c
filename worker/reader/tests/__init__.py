"""Tests of the model layer, on tiny random models that are built for each run."""
