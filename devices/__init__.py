"""Tango device classes: thin; they validate, forward and publish."""
