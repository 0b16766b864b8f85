"""Short recordings as one channel of samples at the rate that a model wants."""

from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import resample_poly

LONGEST_S = 30
"""Whisper hears this long at once."""


def read_audio(path: Path, rate: int) -> npt.NDArray[np.float32]:
    """Read a WAV or FLAC file, mixed to one channel, at `rate` samples a second: float32 of shape (samples,).

    Raises OSError or soundfile.LibsndfileError for a file that cannot be read.
    """
    samples, own_rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if own_rate == rate:
        return mono
    common = gcd(own_rate, rate)
    resampled: npt.NDArray[np.float32] = resample_poly(mono, rate // common, own_rate // common).astype(np.float32)
    return resampled


def check_audio(value: Any, folder: Path) -> str | None:
    """Say what is wrong with a row's audio, read to its end; None if nothing is."""
    if not isinstance(value, str) or not value.strip():
        return f"audio is {value!r:.60}, and the path of a WAV or FLAC file is expected"
    path = folder / value
    if not path.is_file():
        return f"audio {value!r} does not exist in {folder}"
    try:
        samples, rate = soundfile.read(path, dtype="float32")
        seconds = len(samples) / rate
    except (OSError, soundfile.SoundFileError) as error:
        return f"audio {value!r} cannot be read ({error})"
    if not len(samples) or not np.isfinite(samples).all():
        return f"audio {value!r} has {'samples that are no numbers' if len(samples) else 'no samples'}"
    return f"audio {value!r} lasts {seconds:.1f} s, longer than {LONGEST_S} s" if seconds > LONGEST_S else None
