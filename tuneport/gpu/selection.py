"""Which GPUs CUDA_VISIBLE_DEVICES leaves to this process."""

import contextlib
import ctypes
import itertools
import os
from collections.abc import Callable

from tuneport.gpu.capability import TURING
from tuneport.gpu.devices import MIG_NAME, Card, Device, Gpu, list_cards, nvidia_driver
from tuneport.gpu.nvml import nvml

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_NAME = "GPU-"
"""How UUIDs of whole GPUs start."""
CUDA_DRIVER = "libcuda.so.1"
"""The driver's library that CUDA needs; containers may have it without NVML's."""


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs and MIG instances that this process may use, in CUDA's order; empty without a driver.

    CUDA_VISIBLE_DEVICES is read as CUDA reads it: numbers, UUIDs or unique beginnings of them, MIG names; what follows
    an invalid one does not count, and a repeated one leaves none. A GPU in MIG mode stands for all of its instances.
    CUDA opens only the first instance that a process may use: give each process the `uuid` of one.
    Numbers count in the order of the PCI bus, which is CUDA's for like GPUs and with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    return _gpus(os.environ.get(VISIBLE))


def use_first_gpu(suits: Callable[[Gpu], bool] = lambda gpu: gpu.has(TURING)) -> None:
    """Hide from CUDA, where the host's GPUs differ, all but the first visible one that suits: by default, has kernels.

    CUDA numbers GPUs that differ by their speed, so that its numbers may not be NVML's. This holds for this process,
    if CUDA has not started in it, and for those that it starts from now on.
    """
    first = next((gpu for gpu in visible_gpus() if suits(gpu)), None)
    if first is not None and first.uuid and not all(gpu.is_like(first) for gpu in _gpus(None)):
        os.environ[VISIBLE] = first.uuid


def unknown_entry() -> str | None:
    """Return the first entry of CUDA_VISIBLE_DEVICES that is no GPU of this host; None without one, or a driver.

    CUDA ignores such an entry and all that follow. An empty value, and a number below 0, hide every GPU on purpose.
    """
    with nvml() as pynvml:
        if pynvml is None:
            return None
        try:
            cards = list_cards(pynvml)
        except pynvml.NVMLError:
            return None
    return next((entry for entry in listed_entries() if _find(cards, entry) is None), None)


def listed_entries() -> tuple[str, ...]:
    """Return the entries of CUDA_VISIBLE_DEVICES; none without it, and none after one that hides the rest on purpose.

    An empty value, and a number below 0, hide every GPU.
    """
    entries = (each.strip() for each in os.environ.get(VISIBLE, "").split(","))
    return tuple(itertools.takewhile(lambda each: each and not each.startswith("-"), entries))


def has_unnamed_gpu() -> bool:
    """Tell whether CUDA may find a GPU that NVML does not name.

    That is so where CUDA's driver is installed without NVML, as in containers without the driver's utilities, unless
    CUDA_VISIBLE_DEVICES hides every GPU.
    """
    if nvidia_driver() is not None or (VISIBLE in os.environ and not listed_entries()):
        return False
    with contextlib.suppress(OSError):
        ctypes.CDLL(CUDA_DRIVER)
        return True
    return False


def _gpus(visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES leaves; with None all."""
    with nvml() as pynvml:
        if pynvml is None:
            return ()
        try:
            return tuple(device.describe(pynvml) for device in _selected(list_cards(pynvml), visible))
        except pynvml.NVMLError:  # lost while it was asked
            return ()


def _selected(cards: list[Card], visible: str | None) -> list[Device]:
    """Return what CUDA_VISIBLE_DEVICES leaves of the devices, in its order."""
    if visible is None:
        return [device for card in cards for device in card.usable]
    selected: list[Device] = []
    for entry in (each.strip() for each in visible.split(",")):
        found = _find(cards, entry)
        if found is None:
            break
        if any(device in selected for device in found):
            return []
        selected += found
    return selected


def _find(cards: list[Card], entry: str) -> tuple[Device, ...] | None:
    """Return the devices of one entry; None if it names none, or several."""
    if entry.isdecimal():
        return cards[int(entry)].usable if int(entry) < len(cards) else None
    candidates: list[tuple[tuple[Device, ...], tuple[str, ...]]]
    if entry.startswith(MIG_NAME):
        candidates = [((each,), each.names) for card in cards for each in card.instances or ()]
    elif entry.startswith(GPU_NAME):
        candidates = [(card.usable, card.device.names) for card in cards]
    else:
        return None
    exact = [devices for devices, names in candidates if entry in names]  # …/1/1 is also the beginning of …/1/10
    found = exact or [devices for devices, names in candidates if any(name.startswith(entry) for name in names)]
    return found[0] if len(found) == 1 else None
