"""Reads and checks the recordings of labelled data."""

from pathlib import Path
from typing import Any

import soundfile

from tuneport.errors import InputError
from tuneport.runtime.audio import Samples, decode_audio, read_sound

LONGEST_S = 30
"""Length of Whisper's window."""


def read_audio(path: Path, rate: int) -> Samples:
    """Read a WAV or FLAC file, mixed to one channel: float32 (samples,), `rate` of them a second.

    Raises OSError or InputError for a file that cannot be read.
    """
    return read_sound(path.read_bytes(), rate, LONGEST_S)


def find_audio_problem(value: Any, folder: Path) -> str | None:
    """Return the problem of a row's audio, whose samples are read; None if there is none."""
    if not isinstance(value, str) or not value.strip():
        return f"audio is {value!r:.60}, and the path of a WAV or FLAC file is expected"
    path = folder / value
    if not path.is_file():
        return f"audio {value!r} does not exist in {folder}"
    try:
        decode_audio(path.read_bytes(), LONGEST_S, name=f"audio {value!r}")
        seconds = soundfile.info(path).duration
    except InputError as error:
        return error.problem
    except OSError as error:
        return f"audio {value!r} cannot be read ({error})"
    return f"audio {value!r} lasts {seconds:.1f} s, longer than {LONGEST_S} s" if seconds > LONGEST_S else None
