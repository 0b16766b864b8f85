"""Speech recognition: the transcript of a WAV or FLAC recording."""

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
    """Reads recordings as samples, float32 (samples,), at the model's sampling rate."""

    is_stripped: ClassVar = True

    def parse_input(self, value: Any) -> Samples:
        """Check one input: an object with `audio`, a file's content in base64 or, of an upload, as bytes.

        A path is refused: a request must not choose which file the server reads.
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
        return read_sound(content, self.generation.sampling_rate, self.processor.window_s)

    def read_local(self, value: Any) -> Any:
        """Return the input for a path of the command line."""
        if not isinstance(value, str):
            return value
        try:
            return {"audio": Path(value).read_bytes()}
        except OSError as error:
            raise InputError(f"{value[:200]!r} cannot be read ({error.strerror})", "name WAV or FLAC files") from error

    def encode(self, parsed_inputs: Sequence[Samples]) -> list[list[EncodedInput]]:
        """Return a row with the spectrogram of each recording, truncated to the model's window."""
        spectrograms = [self.processor.spectrogram(samples) for samples in parsed_inputs]
        # Placeholders: the scheduler counts them as the encoder's positions, which are the same for all recordings.
        ids = [0] * self.processing.max_length
        return [[self.prompt(ids, truncated=truncated, features=features)] for features, truncated in spectrograms]
