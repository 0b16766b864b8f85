"""The speeds that autotuning has measured on this host's GPU, kept in the user's cache for the next start."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from tuneport.folders import digest
from tuneport.host import Host
from tuneport.runtime.backends.libraries import TENSORRT_PACKAGE
from tuneport.runtime.user_cache import cache_folder, write_file
from tuneport.schema.artifact import Manifest, Variant

from . import logs
from .settings import Settings

PACKAGES = ("tuneport", "onnxruntime-gpu", "onnxruntime", TENSORRT_PACKAGE)
"""What decides how fast a variant is, beside the host."""


@dataclass(frozen=True)
class Speed:
    """The throughput of a variant, and the token limit that it has it with."""

    rows_per_s: float
    max_batch_tokens: int | None
    """None where the manifest's limit was used."""


SPEEDS = TypeAdapter(dict[str, Speed])


@dataclass(frozen=True)
class SpeedCache:
    """A file with the speeds of some variants of an artifact, measured side by side on one GPU."""

    file: Path
    names: frozenset[str]
    """The variants."""

    @classmethod
    def of(cls, manifest: Manifest, variants: Sequence[Variant], host: Host, settings: Settings) -> Self | None:
        """Return the file for a GPU, its driver, versions, an artifact and the settings; None if NVML names no GPU."""
        if not host.gpus:
            return None
        names = sorted(variant.name for variant in variants)
        key: dict[str, Any] = {
            "gpu": host.gpus[0].model_dump(exclude={"uuid"}),
            "driver": host.driver,
            "versions": {name: _version(name) for name in PACKAGES},
            "artifact": manifest.version,
            "variants": {name: digest(manifest.variant(name).execution.model_dump(mode="json")) for name in names},
            "settings": [settings.max_batch_tokens, settings.worker_threads(), asdict(settings.device_options())],
        }
        return cls(cache_folder("autotune", f"{manifest.name}-{digest(key)[:16]}.json"), frozenset(names))

    def read(self) -> dict[str, Speed] | None:
        """Return the speeds of an earlier start, None if the file is missing or damaged.

        None also if a variant has no speed in it: what failed at one start may run at the next.
        """
        try:
            speeds = SPEEDS.validate_json(self.file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logs.log("autotuning cache unreadable", logging.WARNING, file=str(self.file), reason=str(error)[:200])
            return None
        return speeds if speeds.keys() == self.names else None

    def write(self, speeds: Mapping[str, Speed]) -> None:
        """Keep speeds; a cache that cannot be written is logged, and they are measured again at the next start."""
        content = json.dumps({name: asdict(speed) for name, speed in speeds.items()}, indent=2) + "\n"
        try:
            write_file(self.file, content.encode())
        except OSError as error:
            logs.log("autotuning cache unwritable", logging.WARNING, file=str(self.file), reason=str(error)[:200])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
