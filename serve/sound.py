"""Recordings as one channel of samples at the rate that a model hears."""

import io
from math import gcd

import numpy as np
import numpy.typing as npt

from serve.tasks.inputs import InputError

Samples = npt.NDArray[np.float32]
REMEDY = "send a WAV or FLAC recording"
RATES_HZ = range(1_000, 192_001)
MOST_CHANNELS = 8


def read_sound(content: bytes, rate: int, longest_s: float) -> Samples:
    """Read a WAV or FLAC file's content, mixed to one channel: float32 (samples,), `rate` of them a second.

    A second beyond `longest_s` and no more is read: a small FLAC file may hold days of silence. Raises InputError for
    what is no recording, has no samples, or has some that are no numbers.
    """
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            own_rate, channels = file.samplerate, file.channels
            _check(own_rate, channels)
            samples = file.read(int((longest_s + 1) * own_rate), dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the recording cannot be read ({str(error)[:100]})", REMEDY) from error
    if not len(samples) or not np.isfinite(samples).all():
        raise InputError("the recording has no samples, or some that are no numbers", REMEDY)
    mono: Samples = samples.mean(axis=1)
    if own_rate != rate:
        common = gcd(own_rate, rate)
        mono = resample_poly(mono, rate // common, own_rate // common).astype(np.float32)
    return mono


def _check(rate: int, channels: int) -> None:
    if rate not in RATES_HZ or channels > MOST_CHANNELS:
        said = f"the recording has {channels} channel(s) of {rate} samples a second"
        raise InputError(said, f"send up to {MOST_CHANNELS} channels of {RATES_HZ[0]} to {RATES_HZ[-1]}")
