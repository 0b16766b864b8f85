"""Translation: a text of the model's source language in its target language."""

from tuneport.runtime.tasks.generation import TextToText


class Task(TextToText):
    """Text in, text out; the artifact sets the languages."""
