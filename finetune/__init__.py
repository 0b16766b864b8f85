"""Labelled data in, checkpoint out."""
