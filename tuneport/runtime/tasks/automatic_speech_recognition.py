"""Speech recognition at serving time: a WAV or FLAC recording, and its transcript."""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tuneport.errors import InputError
from tuneport.runtime.audio import Samples, read_sound
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.generation import GenerationTask

SHAPE = '{"audio": "…"} with a WAV or FLAC file in base64, or the file itself as audio/wav'


class Task(GenerationTask):
    """Reads recordings as samples, float32 (samples,), at the rate that the model hears."""

    is_stripped: ClassVar = True

    def parse_input(self, value: Any) -> Samples:
        """Check one input: an object with `audio`, a file's content in base64, or as bytes where it was uploaded.

        A path is not one: a request must not choose what the server reads.
        """
        if not isinstance(value, dict) or set(value) != {"audio"}:
            raise InputError(f"an input is {inputs.describe(value)}", f"send {SHAPE}")
        content = value["audio"]
        if isinstance(content, str):
            try:
                content = base64.b64decode(content, validate=True)
            except (binascii.Error, ValueError) as error:
                raise InputError(f'"audio" is not base64 ({error})', f"send {SHAPE}") from error
        if not isinstance(content, bytes):
            raise InputError(f'"audio" is {inputs.describe(content)}', f"send {SHAPE}")
        assert self.generation.sampling_rate is not None
        return read_sound(content, self.generation.sampling_rate, self.processor.longest_s)

    def read_local(self, value: Any) -> Any:
        """Make an input of what the command line was given: a path."""
        if not isinstance(value, str):
            return value
        try:
            return {"audio": Path(value).read_bytes()}
        except OSError as error:
            raise InputError(f"{value[:200]!r} cannot be read ({error.strerror})", "give WAV or FLAC files") from error

    def encode(self, sounds: Sequence[Samples]) -> list[list[EncodedInput]]:
        """Return a spectrogram for each recording; what goes beyond the model's window is lost."""
        made = [self.processor.spectrogram(samples) for samples in sounds]
        # What it costs is its length in the encoder, which is the same for all.
        ids = [0] * self.processing.max_length
        return [[self.prompt(ids, truncated=cut, features=features)] for features, cut in made]
