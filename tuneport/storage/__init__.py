"""Artifacts and bentos in another folder or in an object store."""
