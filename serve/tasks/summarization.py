"""Summarization at serving time: a text in, a shorter one out."""

from serve.tasks.generation import TextToText


class Task(TextToText):
    """Nothing but text to text."""
