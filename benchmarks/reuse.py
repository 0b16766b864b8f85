"""The timings that an export took a short while ago on this machine: repeating them would tell nothing new."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tuneport.host import Host
from tuneport.schema.artifact import Manifest
from tuneport.stages.export.groups import TIMED_ROWS
from tuneport.stages.export.results import BenchmarkResult

from .config import BenchConfig

MAX_AGE = timedelta(hours=1)
MEASURED = (
    "data", "columns", "splits", "rounds", "torch_compile", "remeasure", "precision", "max_seconds", "shapes", "device",
    "peers",
)  # fmt: skip
"""Settings that ask for figures which the export did not take, if they are not the default."""


def timings_of_export(manifest: Manifest, config: BenchConfig, host: Host) -> dict[str, BenchmarkResult]:
    """Return the export's timings of torch and of the variants by name; nothing if they are not to be used again.

    They are, if they were taken on a host like this one within `MAX_AGE`, were not cut short by `--max-seconds`, and no
    setting asks for others. Those of a combined artifact never are, because several exports took them.
    """
    defaults = BenchConfig(artifact=Path())
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.provenance.created)
    is_recent = timedelta() <= age <= MAX_AGE and manifest.host == host
    took_time = manifest.provenance.config["export"].get("max_seconds", defaults.max_seconds) >= defaults.max_seconds
    if manifest.others or not (manifest.baselines and is_recent and took_time):
        return {}
    if any(getattr(config, name) != getattr(defaults, name) for name in MEASURED):
        return {}
    torch = {each.setup.name: BenchmarkResult(each.timing, each.max_batch_tokens) for each in manifest.baselines}
    variants = {
        each.name: BenchmarkResult(each.evidence.timing, each.execution.max_batch_tokens) for each in manifest.variants
    }
    return torch | variants


def note(manifest: Manifest) -> str:
    """Say whose timings a report has."""
    return (
        f"The timings are those of the export at {manifest.provenance.created} on this machine, on up to {TIMED_ROWS} "
        "texts of the data that its gate compared; --remeasure repeats them, and times fixed shapes."
    )
