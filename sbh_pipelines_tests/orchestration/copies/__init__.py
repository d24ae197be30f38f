"""Tests of copies in Dagster."""
