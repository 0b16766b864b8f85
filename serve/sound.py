"""Recordings as one channel of samples at the rate that a model hears."""

import io
from math import gcd

import numpy as np
import numpy.typing as npt

from serve.tasks.inputs import InputError

Samples = npt.NDArray[np.float32]
REMEDY = "send a WAV or FLAC recording"


def read_sound(content: bytes, rate: int) -> Samples:
    """Read a WAV or FLAC file's content, mixed to one channel: float32 (samples,), `rate` of them a second.

    Raises InputError for what is no recording, has no samples, or has some that are no numbers.
    """
    import soundfile
    from scipy.signal import resample_poly

    try:
        samples, own_rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the recording cannot be read ({str(error)[:100]})", REMEDY) from error
    if not len(samples) or not np.isfinite(samples).all():
        raise InputError("the recording has no samples, or some that are no numbers", REMEDY)
    mono: Samples = samples.mean(axis=1)
    if own_rate != rate:
        common = gcd(own_rate, rate)
        mono = resample_poly(mono, rate // common, own_rate // common).astype(np.float32)
    return mono
