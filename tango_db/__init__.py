"""Beamline description (YAML) to Tango database, and the embedded database."""
