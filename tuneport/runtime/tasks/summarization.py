"""Summarization: a summary of a text."""

from tuneport.runtime.tasks.generation import TextToText


class Task(TextToText):
    """Text in, text out; the model makes the difference from translation."""
