"""Summarization at serving time: a text in, a shorter one out."""

from tuneport.runtime.tasks.generation import TextToText


class Task(TextToText):
    """Nothing but text to text."""
