"""Which variant is the default, which are on the Pareto front, and what the model card and `inspect` show of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from kit.command import tuneport

from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import BaselineTiming, Manifest, Rejected, Student, Variant
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import is_decided
from tuneport.stages.export.card import card
from tuneport.stages.export.config import Objective
from tuneport.stages.export.intervals import Samples
from tuneport.stages.export.pareto import draw_pareto, pareto_front
from tuneport.stages.export.results import BenchmarkResult
from tuneport.stages.export.select import select_default, slower_than_torch
from tuneport.stages.export.target import BenchmarkTarget
from tuneport.stages.export.turns import Stop, TargetRunner, time_turns


def with_evidence(variant: Variant, **changes: object) -> Variant:
    return variant.model_copy(update={"evidence": variant.evidence.model_copy(update=changes)})


def renamed(variant: Variant, name: str, texts_per_s: float, p50: float) -> Variant:
    """Copy a variant with another name and other timings."""
    timing = variant.evidence.timing.model_copy(update={"texts_per_s": texts_per_s, "latency_ms_p50": p50})
    return with_evidence(variant.model_copy(update={"name": name}), timing=timing)


def untimed(variants: Sequence[Variant]) -> dict[str, BenchmarkResult]:
    """Return results without samples, whose figures have no doubt."""
    return {each.name: BenchmarkResult(each.evidence.timing, 128) for each in variants}


@pytest.mark.parametrize(("objective", "best"), [("throughput", "a"), ("latency", "b"), ("size", "c")])
def test_the_objective_selects_the_default(manifest: Manifest, objective: Objective, best: str) -> None:
    variants = []
    for name, (texts_per_s, p50, size) in {"a": (30.0, 9.0, 20), "b": (20.0, 7.0, 30), "c": (10.0, 8.0, 10)}.items():
        variant = renamed(manifest.variants[0], name, texts_per_s, p50)
        files = (variant.execution.files[0].model_copy(update={"size_bytes": size}),)
        execution = variant.execution.model_copy(update={"files": files})
        variants.append(variant.model_copy(update={"execution": execution}))
    name, because = select_default(variants, objective, untimed(variants))
    assert name == best
    assert all(f"{each.name} " in because for each in variants)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize(
    ("seconds", "spread", "best", "doubt"),
    [
        (0.97, 0.001, "int8", None),  # proven: however small the difference is, the faster one serves
        (0.97, 0.6, "fp32", "no proof"),  # a tie: the simpler one
        (0.8, 0.6, "int8", "would have to confirm"),  # 1.25 times as fast on a noisy machine is no tie
    ],
)
def test_the_simpler_variant_is_preferred_only_where_two_tie(
    manifest: Manifest, objective: Objective, seconds: float, spread: float, best: str, doubt: str | None
) -> None:
    chance = np.random.default_rng(4)
    variants, results = [], {}
    for source, each in zip(manifest.variants, (1.0, seconds), strict=True):
        samples = Samples.of(each * chance.uniform(1 - spread, 1 + spread, 11))
        variant = renamed(source, source.name, texts_per_s=1 / each, p50=each)
        variants.append(variant)
        results[source.name] = BenchmarkResult(variant.evidence.timing, 128, samples, samples)
    assert [each.name for each in variants] == ["fp32", "int8"]
    low, high = (results["int8"].speed_over if objective == "throughput" else results["int8"].quickness_over)(
        results["fp32"]
    )
    assert (low <= 1 <= high) == (doubt is not None)
    name, because = select_default(variants, objective, results)
    assert name == best
    assert doubt in because if doubt else ";" not in because
    # What is simpler and measured faster needs no proof.
    swapped = {"fp32": results["int8"], "int8": results["fp32"]}
    figures = {"fp32": (1 / seconds, seconds), "int8": (1.0, 1.0)}
    again = [renamed(each, each.name, *figures[each.name]) for each in variants]
    assert select_default(again, objective, swapped)[0] == "fp32"


@pytest.mark.parametrize(
    ("int8", "spread", "expected"), [(0.5, 0.01, True), (0.99, 0.001, True), (0.9, 0.6, False), (1.2, 0.01, True)]
)
def test_a_benchmark_is_undecided_while_noise_hides_whether_the_approximate_variant_is_faster(
    int8: float, spread: float, expected: bool
) -> None:
    targets = {
        "torch fp32": BenchmarkTarget(lambda rows: None, TorchSetup()),
        "fp32": BenchmarkTarget(lambda rows: None),
        "int8": BenchmarkTarget(lambda rows: None, precision="int8"),
    }
    chance = np.random.default_rng(4)
    medians = {"torch fp32": 3.0, "fp32": 1.0, "int8": int8}
    seconds = {name: list(each * chance.uniform(1 - spread, 1 + spread, 12)) for name, each in medians.items()}
    assert is_decided(targets, seconds) == expected
    assert is_decided({"torch fp32": targets["torch fp32"]}, seconds)


@pytest.mark.parametrize(("student", "spread", "expected"), [(0.5, 0.01, True), (0.9, 0.6, False), (1.2, 0.6, True)])
def test_a_benchmark_is_undecided_while_noise_hides_whether_a_student_is_faster(
    student: float, spread: float, expected: bool
) -> None:
    """A student has to be proven faster than the full model, also where both have the same precision."""
    targets = {
        "int8": BenchmarkTarget(lambda rows: None, precision="int8"),
        "pruned-int8": BenchmarkTarget(lambda rows: None, precision="int8", is_student=True),
    }
    seconds = {
        "int8": [1 - spread, 1 + spread] * 6,
        "pruned-int8": [student * (1 + spread), student * (1 - spread)] * 6,
    }
    assert is_decided(targets, seconds) == expected


@pytest.mark.parametrize(("decided", "turns"), [(True, 10), (False, 20)])
def test_an_undecided_benchmark_goes_on_for_longer(decided: bool, turns: int) -> None:
    stop = Stop(
        is_precise=lambda seconds: False, is_decided=lambda seconds: decided, patience=2, min_turns=2, enough_turns=3,
        max_turns=10, max_seconds=1000,
    )  # fmt: skip
    runner = TargetRunner(lambda rows: None, 1, 0.0)
    row = EncodedInput([1], [0], False)
    try:
        seconds = time_turns({"a": runner}, {"a": [[[row]]]}, stop, lambda _: None)
    finally:
        runner.close()
    assert len(seconds["a"]) == turns


def test_a_student_must_be_better_than_int8_beyond_noise(manifest: Manifest) -> None:
    student = Student(layers=(0, 1), full_layers=3, rows=100, steps=1, seconds=1.0)
    pruned = with_evidence(renamed(manifest.variants[0], "pruned", texts_per_s=1.1, p50=1.0), student=student)
    int8 = renamed(manifest.variants[1], "int8", texts_per_s=1.0, p50=1.1)
    results = {}
    for spread, best in ((0.6, "int8"), (0.01, "pruned")):
        for variant, seconds in ((pruned, 0.9), (int8, 1.0)):
            samples = tuple(
                float(each) for each in seconds * np.random.default_rng(4).uniform(1 - spread, 1 + spread, 11)
            )
            noise = Samples.of(samples if variant is pruned else samples[::-1])
            results[variant.name] = BenchmarkResult(variant.evidence.timing, 128, noise, noise)
        assert select_default([pruned, int8], "throughput", results)[0] == best
    # A doubt about the student is none about int8.
    fp32 = renamed(manifest.variants[0], "fp32", texts_per_s=0.4, p50=2.5)
    chance = np.random.default_rng(4).uniform(0.4, 1.6, 11)
    for variant, seconds in ((pruned, 0.9 * chance), (int8, 1.0 * chance[::-1]), (fp32, 2.5 * chance[::-1])):
        samples = Samples.of(seconds)
        results[variant.name] = BenchmarkResult(variant.evidence.timing, 128, samples, samples)
    name, because = select_default([pruned, fp32, int8], "throughput", results)
    assert (name, "pruned, a student, is" in because) == ("int8", True)


@pytest.mark.parametrize(
    ("interval", "named"),
    [((30.0, 34.0), "torch bf16"), ((19.0, 34.0), None), (None, None)],
    ids=["faster", "noise", "no-interval"],
)
def test_a_default_that_is_slower_than_torch_says_so(
    manifest: Manifest, interval: tuple[float, float] | None, named: str | None
) -> None:
    """Against the fastest torch of all precisions, whatever class the speed-up is measured in."""
    variant = renamed(manifest.variants[0], "fp32", texts_per_s=20.0, p50=50.0)
    served = variant.evidence.timing.model_copy(update={"texts_per_s_interval": (19.5, 20.5)})
    baselines = [
        BaselineTiming(
            setup=TorchSetup(precision=precision),
            timing=served.model_copy(update={"texts_per_s": speed, "texts_per_s_interval": each}),
            max_batch_tokens=128,
        )
        for precision, speed, each in (("fp32", 10.0, (9.0, 11.0)), ("bf16", 32.0, interval))
    ]
    slower = manifest.model_copy(
        update={
            "variants": (with_evidence(variant, timing=served),),
            "default_variant": "fp32",
            "baselines": tuple(baselines),
        }
    )
    assert slower.faster_torch == named
    sentence = slower_than_torch(slower)
    assert (sentence is None) == (named is None)
    if sentence:
        assert "torch bf16 is faster" in sentence
        assert "32 inputs/s where fp32 makes 20" in sentence


def test_the_pareto_front_has_what_no_other_dominates(manifest: Manifest) -> None:
    figures = {"fast": (30.0, 9.0), "quick": (20.0, 7.0), "dominated": (20.0, 9.0)}
    variants = tuple(renamed(manifest.variants[0], name, *each) for name, each in figures.items())
    assert pareto_front(variants) == {"fast", "quick"}


def test_the_picture_is_a_png_of_every_variant(manifest: Manifest, tmp_path: Path) -> None:
    file = draw_pareto(tmp_path, manifest)
    assert file.path == "pareto.png"
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    without = manifest.model_copy(update={"variants": manifest.variants[:1]})
    assert draw_pareto(tmp_path, without).sha256 != file.sha256


def test_the_card_gives_the_reason_of_a_rejected_variant(manifest: Manifest) -> None:
    rejected = (Rejected(name="int4", reason="agreement 12.00% < 99%"),)
    assert "- `int4`: agreement 12.00% < 99%" in card(manifest.model_copy(update={"rejected": rejected}))


def test_inspect_names_the_parts_that_stay_in_fp32(manifest: Manifest, artifact: Path) -> None:
    fp32, int8 = manifest.variants
    mixed = with_evidence(int8, fp32_parts=("/bert/encoder/layer.1/output",))
    changed = manifest.model_copy(update={"variants": (fp32, mixed)})
    assert "int8 keeps in fp32" in card(changed)
    changed.save(artifact)
    shown = tuneport("inspect", artifact).out
    assert "keeps in fp32" in shown
    assert "layer.1/output" in shown
