"""Writes a settings file for a user's data: recognizes task and columns, and suggests lengths."""
