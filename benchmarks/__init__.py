"""Artifact and real text in, measured report out."""
