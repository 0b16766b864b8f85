"""Tables on stdout: any, and those of an artifact's evidence, for commands that work without torch."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

from tuneport.cli.json_output import print_json
from tuneport.host import Host
from tuneport.runtime.availability import obstacles, unfit_gpus
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.export.card import (
    calibration,
    combination,
    device_text,
    evidence,
    excluded_parts,
    long_inputs,
    refused_baselines,
    row_counts,
    students,
    summary,
    variant_names,
)
from tuneport.tasks import task_spec

MAX_TABLE_WIDTH = 1000
WIDTH_WITHOUT_TERMINAL = 160


def print_summary(manifest: Manifest) -> None:
    """Print what an export measured of its variants, beside torch, in a table of 80 columns."""
    header, rows = summary(manifest)
    texts = manifest.variants[0].evidence.timing.texts
    caption = (
        f"{texts} validation inputs on {device_text(manifest)}. * serves by default. p50: one input at a time. "
        "Inputs/s: in batches. Speed-up: in inputs/s, against the fastest torch of the same class of precision."
    )
    print_table(header, rows, caption)


def print_artifact(folder: Path) -> None:
    """Print an artifact's task, the evidence of its variants, and its provenance; a combined one has a table a part."""
    manifest = load_manifest(folder)
    console = _console()
    console.print(f"[bold]{manifest.name}[/] {manifest.version}: {manifest.task}", highlight=False)
    if task_spec(manifest.task).has_labels:
        print_plain(f"{len(manifest.labels)} labels: {', '.join(manifest.labels)}")
    print_plain(long_inputs(manifest))
    for part in manifest.parts:
        _print_evidence(part, manifest.default_variant)
    for line in [*combination(manifest), *_availability(manifest), *_provenance(manifest)]:
        print_plain(line)


def _print_evidence(manifest: Manifest, default: str) -> None:
    """Print the evidence of variants that were measured side by side; `default` is the artifact's default variant."""
    header, rows = evidence(manifest, default)
    parity = manifest.variants[0].evidence.parity
    print_table(
        header,
        rows,
        f"{parity.golden_cases} golden cases and {parity.texts} validation inputs on {device_text(manifest)}. * serves "
        "by default, † another variant is better in every respect, ×2: in two streams, ¹: inputs run one at a time.",
    )


def print_artifact_json(folder: Path) -> None:
    """Print an artifact's manifest, and for each variant the obstacle on this host and why GPUs are left out."""
    manifest, host = load_manifest(folder), Host.here()
    found = obstacles(manifest, host)
    print_json({"manifest": manifest.model_dump(mode="json"), "obstacles": found, "unfit_gpus": _unfit(manifest, host)})


def _availability(manifest: Manifest) -> list[str]:
    """Say which variants run on this host, why others do not, and which GPUs some leave out."""
    host = Host.here()
    found = obstacles(manifest, host)
    able = [name for name, obstacle in found.items() if obstacle is None]
    return [
        f"run here: {', '.join(able) or 'none'}",
        *(f"does not run here: {name} {obstacle}" for name, obstacle in found.items() if obstacle),
        *(
            f"leaves GPUs out: {name} {reason}"
            for name, reasons in _unfit(manifest, host).items()
            for reason in reasons
        ),
    ]


def _unfit(manifest: Manifest, host: Host) -> dict[str, tuple[str, ...]]:
    """Return why variants that run on a host leave GPUs of it out, by the names of those that do."""
    found = {variant.name: unfit_gpus(variant.execution, host.gpus) for variant in manifest.variants}
    return {name: reasons for name, reasons in found.items() if reasons}


def _provenance(manifest: Manifest) -> list[str]:
    """Describe, a line each, the selection of the variants, where they were measured, and where the model is from."""
    source = manifest.provenance
    return [
        *(line for part in manifest.parts for line in _export(part, of_several=bool(manifest.others))),
        f"base model: {source.base_model or 'not recorded'}; checkpoint {source.checkpoint_sha256[:12]}; "
        f"seed {source.seed}",
    ]


def _export(manifest: Manifest, *, of_several: bool) -> list[str]:
    """Describe the export that measured the variants of one part, which are named if there are `of_several`."""
    source = manifest.provenance
    data = source.data
    versions = ", ".join(f"{name} {number}" for name, number in source.versions.items())
    return [
        *([f"export of {variant_names(manifest)}:"] if of_several else []),
        f"default: {manifest.default_variant}, {manifest.default_because}",
        *students(manifest),
        *excluded_parts(manifest),
        *(f"rejected: {rejected.name}: {rejected.reason}" for rejected in manifest.rejected),
        *calibration(manifest),
        *refused_baselines(manifest),
        f"measured on: {device_text(manifest)}",
        *(f"GPU: {gpu.name}, {gpu.memory_gib:g} GiB" for gpu in manifest.host.gpus),
        f"data: {data.source} ({row_counts(data)}), fingerprint {data.fingerprint[:12]}" if data else "data: none",
        f"created: {source.created}, code {source.git_commit or 'not in git'}",
        f"versions: {versions}",
    ]


def print_table(header: list[str], rows: list[list[str]], caption: str) -> None:
    """Print a table or, where the terminal is too narrow for it, a paragraph a row, so that no figure is cut off."""
    console = _console()
    table = Table(caption=caption, caption_justify="left")
    for i, title in enumerate(header):
        table.add_column(escape(title), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_printable(cell)) for cell in row))
    if Measurement.get(console, console.options.update(max_width=MAX_TABLE_WIDTH), table).maximum <= console.width:
        console.print(table)
        return
    for name, *cells in rows:
        figures = ", ".join(f"{title} {cell}" for title, cell in zip(header[1:], cells, strict=True) if cell)
        console.print(f"[bold]{name}[/]", highlight=False)
        console.print(Padding(figures, (0, 0, 0, 2)), highlight=False, markup=False)
    console.print(caption, style="italic", highlight=False)


def print_plain(line: str) -> None:
    """Print a line without markup and colours."""
    _console().print(_printable(line), highlight=False, markup=False)


def _printable(text: str) -> str:
    """Replace what is no visible character, so that a file of someone else cannot send commands to the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _console() -> Console:
    """Open stdout; without a terminal to measure it is wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)
