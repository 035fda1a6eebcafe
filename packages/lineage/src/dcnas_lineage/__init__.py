"""Provenance of an artefact, and the audit of a reported number."""
