"""Reads recordings as one channel of samples at a model's sampling rate."""

import io
from math import gcd

import numpy as np
import numpy.typing as npt

from tuneport.errors import InputError

Samples = npt.NDArray[np.float32]
"""One channel, (samples,)."""
REMEDY = "send a WAV or FLAC recording"
SAMPLING_RATES_HZ = range(1_000, 192_001)
MAX_CHANNELS = 8


def read_sound(content: bytes, rate: int, longest_s: float) -> Samples:
    """Read a WAV or FLAC file's content, mixed to one channel: float32 (samples,), `rate` of them a second.

    Raises InputError as `decode_audio` does, and reads no more than it.
    """
    samples, own_rate = decode_audio(content, longest_s)
    return resample(samples, own_rate, rate)


def decode_audio(content: bytes, longest_s: float, name: str = "the recording") -> tuple[Samples, int]:
    """Decode a WAV or FLAC file's content to one channel, float32 (samples,), and return its sampling rate in Hz.

    No more than `longest_s` and one second is read: a small FLAC file may hold days of silence. Raises InputError,
    which calls the recording `name`, for content that is no recording, or without samples, or with samples that are
    no numbers.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, channels = file.samplerate, file.channels
            _check_format(rate, channels, name)
            samples = file.read(int((longest_s + 1) * rate), dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be read ({str(error)[:100]})", REMEDY) from error
    if not len(samples) or not np.isfinite(samples).all():
        problem = "samples that are no numbers" if len(samples) else "no samples"
        raise InputError(f"{name} has {problem}", REMEDY)
    mono: Samples = samples.mean(axis=1)
    return mono, int(rate)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Change the sampling rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    if from_hz == to_hz:
        return samples
    divisor = gcd(from_hz, to_hz)
    resampled: Samples = resample_poly(samples, to_hz // divisor, from_hz // divisor).astype(np.float32)
    return resampled


def _check_format(rate: int, channels: int, name: str) -> None:
    if rate not in SAMPLING_RATES_HZ or channels > MAX_CHANNELS:
        problem = f"{name} has {channels} channel(s) of {rate} samples a second"
        rates = f"{SAMPLING_RATES_HZ[0]} to {SAMPLING_RATES_HZ[-1]}"
        raise InputError(problem, f"send up to {MAX_CHANNELS} channels of {rates}")
