"""Translation at serving time: a text in the language that the model was trained to read, its translation out."""

from tuneport.runtime.tasks.generation import TextToText


class Task(TextToText):
    """Nothing but text to text; languages are the artifact's."""
