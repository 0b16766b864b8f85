"""The search for what a quantized variant must keep in fp32: the parts that cost most are kept first."""

import time
from pathlib import Path

from kit.exports import Prepared

from tuneport.errors import EngineError
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.sensitivity import exclusion_sets, parts_of


def test_the_parts_with_the_largest_errors_are_kept_first(prepared: Prepared, tmp_path: Path) -> None:
    context = prepared.builder(tmp_path).context
    parts = parts_of(context.fp32.path)
    first, *others = sorted(parts)
    errors = {part: float(i) for i, part in enumerate(others)}

    def error_of(context: BuildContext) -> float:
        (quantized,) = (part for part in parts if not set(parts[part]) & set(context.excluded_nodes))
        if quantized == first:
            raise EngineError("it cannot be built", "choose other variants")
        return errors[quantized]

    sets = list(exclusion_sets(context, error_of, deadline=time.monotonic() + 600, progress=lambda _: None))
    ranking = [first, *reversed(others)]  # what cannot be quantized alone ranks before everything
    assert [list(chosen) for chosen, _ in sets] == [ranking[: len(chosen)] for chosen, _ in sets]
    assert [len(chosen) for chosen, _ in sets][:4] == [1, 2, 3, 4][: len(sets)]
    for chosen, nodes in sets:
        assert sorted(nodes) == sorted(node for part in chosen for node in parts[part])
