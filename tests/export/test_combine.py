"""Several artifacts of one checkpoint in one: what is refused, what it says of its evidence, and what serves where."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from kit.artifacts import alter_golden, change_byte, reseal
from kit.command import assert_one_line, tuneport, without_progress
from kit.exports import export_variants, quick_exports
from kit.pretended_gpu import pretend_gpu
from kit.reference import TorchReference
from kit.serving import local_service
from pydantic import ValidationError

from tuneport.errors import ArtifactError, EngineError, GateError, TuneportError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime import availability
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import MANIFEST, File, GoldenCase, Manifest
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.schema.selection import SELECTION, PackedVariants
from tuneport.signing import SIGNATURE
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.reuse import timings_of_export
from tuneport.stages.export.card import card
from tuneport.stages.export.combinable import Source, reference_difference
from tuneport.stages.export.combine import Combined, combine
from tuneport.stages.export.pareto import draw_pareto
from tuneport.stages.serve import autotune
from tuneport.stages.serve.autotune import select_for_host
from tuneport.stages.serve.bento import register
from tuneport.stages.serve.devices import choose_variant
from tuneport.stages.serve.models.opener import settings_for
from tuneport.stages.serve.packing import fallback_of, pack, requirements_for, serving_variants
from tuneport.stages.serve.settings import Settings

TEXTS = ["bank", "the team won the game", "Größe 🙂"]
H100 = Gpu(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", memory_gib=79.6)
DISTANCE = 2e-5
"""Of torch's outputs on the pretended GPU from those on the CPU."""
CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.fixture(autouse=True)
def _no_pictures(_quick_exports: None) -> None:
    pass


@pytest.fixture(scope="module")
def openvino(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32, as in the tiny artifact, and OpenVINO of the same file."""
    out = tmp_path_factory.mktemp("openvino") / "tiny"
    with quick_exports():
        export_variants(tiny_checkpoint, tiny_data, out, "openvino", name="tiny", objective="latency")  # is quicker
    return out


@pytest.fixture(scope="module")
def on_gpu(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 and fp16 for CUDA, from a host with a GPU, on which torch answers a little differently."""
    out = tmp_path_factory.mktemp("cuda") / "tiny"
    with quick_exports(), pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch)
        settings = {"device": "cuda", "name": "tiny-gpu", "objective": "latency"}
        manifest = export_variants(tiny_checkpoint, tiny_data, out, "fp16", **settings)
    host = manifest.host.model_copy(update={"gpus": (H100,), "driver": "580.1"})
    torch = manifest.torch.model_copy(update={"device": "cuda"})
    manifest.model_copy(update={"host": host, "torch": torch, "default_variant": "fp16"}).save(out)
    alter_golden(out, by=DISTANCE)
    return out


@pytest.fixture(scope="module")
def both(on_gpu: Path, tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Combined]:
    out = tmp_path_factory.mktemp("combined") / "both"
    with quick_exports():
        return out, combine([on_gpu, tiny_artifact], out)


def host(*gpus: Gpu) -> Host:
    return Host(cpu="a", cores=2, instructions=("avx512_vnni",), memory_gib=8.0, system="Linux x86_64", gpus=gpus)


def names(manifest: Manifest) -> list[str]:
    return [variant.name for variant in manifest.variants]


def test_openvino_joins_the_variants_of_another_export(
    tiny_artifact: Path, openvino: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, other = load_manifest(tiny_artifact), load_manifest(openvino)
    combined = combine([tiny_artifact, openvino], tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert combined.manifest == manifest
    assert names(manifest) == ["fp32", "int8", "openvino"]
    assert combined.left_out == (("fp32", openvino),)
    assert manifest.variants[:2] == first.variants
    assert manifest.variant("openvino").evidence == other.variant("openvino").evidence  # torch is the same to the bit
    assert manifest.variant("openvino").execution == other.variant("openvino").execution
    assert not (tmp_path / "out" / "onnx" / "openvino").exists()  # it runs fp32's file
    assert (manifest.name, manifest.default_variant) == (first.name, first.default_variant)
    assert manifest.default_because == first.default_because
    assert (manifest.host, manifest.baselines, manifest.provenance) == (first.host, first.baselines, first.provenance)
    assert manifest.version not in (first.version, other.version)
    assert all(each.difference is not None for each in verify(tmp_path / "out"))
    expected = TorchReference(tiny_checkpoint).labels(TEXTS)
    for name in names(manifest):
        assert [each["label"] for each in Predictor(tmp_path / "out", name).predict(TEXTS)] == expected


def test_variants_for_a_gpu_and_for_cpus_live_in_one_artifact(
    both: tuple[Path, Combined], on_gpu: Path, tiny_artifact: Path
) -> None:
    out, combined = both
    manifest, gpu, cpu = combined.manifest, load_manifest(on_gpu), load_manifest(tiny_artifact)
    assert names(manifest) == ["fp32", "fp16", "cpu-fp32", "int8"]
    assert [variant.execution.device for variant in manifest.variants] == ["cuda", "cuda", "cpu", "cpu"]
    assert combined.left_out == ()
    check_files(out, manifest)
    for name, original in (("cpu-fp32", "fp32"), ("int8", "int8")):
        evidence, before = manifest.variant(name).evidence, cpu.variant(original).evidence
        assert evidence.tolerance == pytest.approx(before.tolerance + DISTANCE, abs=1e-6)
        assert evidence.model_copy(update={"tolerance": before.tolerance}) == before
    assert manifest.variants[:2] == gpu.variants
    # CUDA runs the same fp32 graph, whose weights are there once.
    assert manifest.variant("cpu-fp32").execution.files == manifest.variant("fp32").execution.files
    assert load_golden(out) == load_golden(on_gpu)


def test_only_variants_that_run_here_run_their_golden_cases(both: tuple[Path, Combined]) -> None:
    out, combined = both
    for found in (combined.verified, tuple(verify(out))):
        assert [each.difference is not None for each in found] == [False, False, True, True]
        assert "needs CUDAExecutionProvider" in str(found[0].obstacle)


def test_each_figure_belongs_to_the_host_that_it_was_measured_on(
    both: tuple[Path, Combined], on_gpu: Path, tiny_artifact: Path
) -> None:
    manifest = both[1].manifest
    gpu, cpu = load_manifest(on_gpu), load_manifest(tiny_artifact)
    parts = manifest.parts
    assert [names(part) for part in parts] == [["fp32", "fp16"], ["cpu-fp32", "int8"]]
    for part, source in zip(parts, (gpu, cpu), strict=True):
        for field in ("host", "torch", "torch_texts_per_s", "baselines", "refused_baselines", "rejected", "provenance"):
            assert getattr(part, field) == getattr(source, field)
        assert part.version == manifest.version
    assert manifest.others[0].reference_difference == pytest.approx(DISTANCE, abs=1e-6)
    assert parts[1].default_variant == {"fp32": "cpu-fp32"}.get(cpu.default_variant, cpu.default_variant)
    assert cpu.parts == (cpu,)


def test_card_and_inspect_have_a_table_for_each_host(both: tuple[Path, Combined]) -> None:
    out, combined = both
    text = (out / "README.md").read_text(encoding="utf-8")
    assert text.count("| variant | engine |") == 2
    assert "Measured on NVIDIA H100 80GB HBM3 (driver 580.1)" in text
    assert f"Measured on {combined.manifest.parts[1].host.cpu}, " in text
    other = combined.manifest.parts[1].default_variant
    order = f"fp16, the fastest in the table of fp16, {other}, the fastest in the table of {other}."
    assert f"The first of these that runs on a host serves there: {order}" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("|") and " * " in line] == ["fp16"]
    shown = tuneport("inspect", out).out
    assert " ".join(shown.split()).count(" golden cases and ") == 2
    assert re.findall(r"│ (\S+) \* ", shown) == ["fp16"]
    assert "run here: cpu-fp32, int8" in shown
    assert "does not run here: fp16 needs CUDAExecutionProvider" in shown
    for described in (shown, text):
        assert "Reasons and rejected variants name variants as their own export did." in " ".join(described.split())
    assert "export of cpu-fp32, int8:" in shown
    found = json.loads(tuneport("inspect", out, "--json").out)
    assert {name for name, obstacle in found["obstacles"].items() if obstacle is None} == {"cpu-fp32", "int8"}
    assert found["manifest"]["others"][0]["variants"] == ["cpu-fp32", "int8"]


def test_the_picture_has_a_row_for_each_host(both: tuple[Path, Combined], tmp_path: Path) -> None:
    from PIL import Image

    manifest = both[1].manifest
    sizes = []
    for number, each in enumerate((manifest, manifest.parts[0])):
        (tmp_path / str(number)).mkdir()
        draw_pareto(tmp_path / str(number), each)
        with Image.open(tmp_path / str(number) / "pareto.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] == (sizes[1][0], 2 * sizes[1][1])


@pytest.mark.parametrize(
    ("gpus", "device", "serves"),
    [((H100,), None, "fp16"), ((), None, "CPU"), ((H100,), "cpu", "CPU"), ((H100,), "cuda", "fp16")],
)
def test_the_gpu_serves_where_there_is_one_and_the_cpus_best_variant_elsewhere(
    both: tuple[Path, Combined], monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], device: Any, serves: str
) -> None:
    """Though the CPU's figures, which come from another host, are the higher ones here."""
    monkeypatch.setattr(availability, "_providers", lambda: CUDA)
    manifest = both[1].manifest
    cpu_default = manifest.parts[1].default_variant
    choice = choose_variant(manifest, Settings(device=device), host(*gpus))
    assert choice.variant.name == {"CPU": cpu_default}.get(serves, serves)
    monkeypatch.setattr(Host, "here", lambda: host(*gpus))
    opened = settings_for(manifest, Settings(device=device))
    assert opened.variant == (None if serves == "fp16" else cpu_default)


def test_best_never_compares_speeds_of_two_hosts(both: tuple[Path, Combined]) -> None:
    manifest = both[1].manifest
    cpu_default = manifest.parts[1].default_variant
    [cpu_other] = {"cpu-fp32", "int8"} - {cpu_default}
    slow = manifest.variant("fp32").evidence.timing.model_copy(update={"texts_per_s": 0.001})
    evidence = manifest.variant("fp32").evidence.model_copy(update={"timing": slow})
    variants = (manifest.variant("fp32").model_copy(update={"evidence": evidence}), *manifest.variants[1:])
    manifest = manifest.model_copy(update={"variants": variants})

    def best(*able: str) -> str | None:
        variant = manifest.best(able)
        return variant and variant.name

    assert best("int8", "fp32", "fp16", "cpu-fp32") == "fp16"
    assert best("int8", "cpu-fp32", "fp32") == "fp32"
    assert best("int8", "cpu-fp32") == cpu_default
    assert best(cpu_other) == cpu_other
    assert best() is None


def test_a_default_variant_of_a_later_export_for_the_same_device_comes_before_another_variant_of_the_first(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """On a host without VNNI the int8 variant of a host with it is not able, and that for AVX2 is."""
    first = copy_of(tiny_artifact, tmp_path / "vnni")
    rehash(first, default_variant="int8")
    other = copy_with_two_int8(tiny_artifact, tmp_path / "avx2")
    rehash(other, default_variant="int8")
    manifest = combine([first, other], tmp_path / "out").manifest
    assert [part.default_variant for part in manifest.parts] == ["int8", "cpu-int8"]
    for able, best in ((["fp32", "int8", "cpu-int8"], "int8"), (["fp32", "cpu-int8"], "cpu-int8"), (["fp32"], "fp32")):
        variant = manifest.best(able)
        assert variant
        assert variant.name == best
    order = "int8, cpu-int8, the fastest in the table of int8."
    assert f"The first of these that runs on a host serves there: {order}" in card(manifest)


def test_here_it_is_served_and_answers_as_torch_does(both: tuple[Path, Combined], tiny_checkpoint: Path) -> None:
    out, combined = both
    part = combined.manifest.parts[1]
    assert select_for_host(out, Settings()).variant == part.default_variant  # timed on a host like this one
    assert Predictor(out).variant.name == part.default_variant
    with local_service(out, variant=None) as service:
        answer = service.post(TEXTS).json()
        evidence = service.get("/evidence").json()
    expected = TorchReference(tiny_checkpoint).labels(TEXTS)
    assert [each["label"] for each in answer["predictions"]] == expected
    assert answer["model"]["variant"] == part.default_variant
    assert evidence["measured_on"] == part.host.model_dump(mode="json")
    assert evidence["provenance"]["created"] == part.provenance.created
    assert evidence["chosen_because"] == part.default_because


def test_variants_for_one_device_that_were_not_timed_side_by_side_are_timed_at_the_start(
    tiny_artifact: Path, openvino: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    combine([tiny_artifact, openvino], tmp_path / "out")
    timed: list[list[str]] = []

    def measure(folder: Path, manifest: Manifest, variants: Any, settings: Settings) -> dict[str, autotune.Speed]:
        timed.append([variant.name for variant in variants])
        return {each.name: autotune.Speed(float(each.name == "openvino"), None) for each in variants}

    monkeypatch.setattr(autotune, "_measure", measure)
    assert select_for_host(tiny_artifact, Settings()).variant is None
    assert select_for_host(tmp_path / "out", Settings()).variant == "openvino"
    assert timed == [["fp32", "int8", "openvino"]]


def test_a_bento_for_the_gpu_has_the_cpus_fp32_beside_it(both: tuple[Path, Combined]) -> None:
    out, combined = both
    manifest = combined.manifest
    fallback = fallback_of(manifest, manifest.variant())
    assert fallback
    assert serving_variants(manifest) == ("fp16", "cpu-fp32")
    assert requirements_for(manifest.with_only(("fp16", "cpu-fp32"))) == "requirements-gpu.txt"
    import bentoml

    packed = Path(bentoml.models.get(pack(register(out))).path)
    part = load_manifest(packed)
    assert names(part) == ["fp16", "cpu-fp32"]
    assert part.version == manifest.version
    assert [names(each) for each in part.parts] == [["fp16"], ["cpu-fp32"]]
    assert part.part_of("cpu-fp32").default_variant == "cpu-fp32"
    assert Predictor(packed).variant.name == "cpu-fp32"


def test_timings_of_several_exports_are_no_report(both: tuple[Path, Combined]) -> None:
    manifest = both[1].manifest
    assert timings_of_export(manifest.parts[0], BenchConfig(artifact=Path()), manifest.host)
    assert timings_of_export(manifest, BenchConfig(artifact=Path()), manifest.host) == {}


def test_a_combined_artifact_is_combined_again(
    both: tuple[Path, Combined], on_gpu: Path, tiny_artifact: Path, openvino: Path, tmp_path: Path
) -> None:
    combine([tiny_artifact, openvino], tmp_path / "cpu")
    manifest = combine([on_gpu, tmp_path / "cpu"], tmp_path / "all").manifest
    assert [names(part) for part in manifest.parts] == [["fp32", "fp16"], ["cpu-fp32", "int8"], ["openvino"]]
    assert manifest.part_of("openvino").provenance == load_manifest(openvino).provenance
    tolerance = load_manifest(openvino).variant("openvino").evidence.tolerance
    assert manifest.variant("openvino").evidence.tolerance == pytest.approx(tolerance + DISTANCE, abs=1e-6)
    with pytest.raises(ArtifactError, match="has no variant that the artifacts before it lack"):
        combine([both[0], tiny_artifact], tmp_path / "again")
    combine([openvino, on_gpu], tmp_path / "gpu-second")
    manifest = combine([tiny_artifact, tmp_path / "gpu-second"], tmp_path / "gpu-third").manifest
    assert [names(part) for part in manifest.parts] == [["fp32", "int8"], ["openvino"], ["cuda-fp32", "fp16"]]
    assert [each.reference_difference for each in manifest.others] == [0, pytest.approx(DISTANCE, abs=1e-6)]
    tolerance = load_manifest(on_gpu).variant("fp16").evidence.tolerance
    assert manifest.variant("fp16").evidence.tolerance == pytest.approx(tolerance + DISTANCE, abs=1e-6)


def copy_of(artifact: Path, folder: Path) -> Path:
    """Return a copy of an artifact, with another manifest so that it counts as another export."""
    copy = Path(shutil.copytree(artifact, folder))
    manifest = load_manifest(copy)
    later = manifest.provenance.model_copy(update={"created": "2031-01-01T00:00:00+00:00"})
    manifest.model_copy(update={"provenance": later}).save(copy)
    return copy


def rehash(folder: Path, **changes: Any) -> None:
    """Record the files of an artifact as they are now, and change fields of its manifest."""
    manifest = load_manifest(folder)
    variants = []
    for each in manifest.variants:
        files = tuple(File.of(folder, file.path) for file in each.execution.files)
        variants.append(each.model_copy(update={"execution": each.execution.model_copy(update={"files": files})}))
    shared = tuple(File.of(folder, file.path) for file in manifest.files)
    manifest.model_copy(update={"variants": tuple(variants), "files": shared, **changes}).save(folder)


def other_checkpoint(folder: Path) -> None:
    provenance = load_manifest(folder).provenance
    rehash(folder, provenance=provenance.model_copy(update={"checkpoint_sha256": "f" * 64}))


def other_processing(folder: Path, **changes: Any) -> None:
    rehash(folder, processing=load_manifest(folder).processing.model_copy(update=changes))


def other_input(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[0]["input"] = "something else"
    (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rehash(folder)


def fewer_cases(folder: Path) -> None:
    lines = (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "golden.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    rehash(folder)


def other_tokenizer(folder: Path) -> None:
    with (folder / "tokenizer.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    rehash(folder)


def other_graph(folder: Path) -> None:
    with (folder / "onnx" / "int8" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    rehash(folder)


def part_of_a_bento(folder: Path) -> None:
    (folder / SELECTION).write_text(PackedVariants(variants=("int8",)).model_dump_json(), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (other_checkpoint, ArtifactError, r"differ in their checkpoint: .* and ffffffffffff; export both from one"),
        (lambda folder: rehash(folder, labels=("b", "a", "c")), ArtifactError, r"in their labels: .* and b, a, c;"),
        (lambda folder: other_processing(folder, max_length=9), ArtifactError, r"in their max length: \d+ and 9;"),
        (lambda folder: other_processing(folder, temperature=0.7), ArtifactError, r"their temperature: .* and 0\.7;"),
        (other_tokenizer, ArtifactError, r"differ in tokenizer\.json: SHA-256 .*; export both with the same versions"),
        (other_input, ArtifactError, r"the inputs of their golden cases: .* and 'something else'; .* same --data"),
        (fewer_cases, ArtifactError, r"the number of their golden cases: \d+ and \d+;"),
        (lambda folder: alter_golden(folder, by=0.01), GateError, r"differ by 0\.01 from those of .*, and 0\.001 is"),
        (other_graph, ArtifactError, r"has int8 for cpu, and int8 before it is the same variant with other files;"),
        (lambda folder: change_byte(folder / "onnx" / "int8" / "model.onnx"), ArtifactError, r"the file that passed"),
        (part_of_a_bento, ArtifactError, r"is a part of an artifact, as a bento packs it; give the artifact that"),
        (lambda folder: None, ArtifactError, r"has no variant that the artifacts before it lack"),
    ],
)  # fmt: skip
def test_artifacts_that_do_not_belong_together_are_refused(
    tiny_artifact: Path, tmp_path: Path, change: Any, kind: type[TuneportError], words: str
) -> None:
    other = copy_of(tiny_artifact, tmp_path / "other")
    change(other)
    with pytest.raises(kind, match=words):
        combine([tiny_artifact, other], tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["other"]


def with_engines(artifact: Path, folder: Path, *gpus: str, **changes: Any) -> Path:
    """Return a copy whose last variant is one for TensorRT, with an engine for each of some GPUs."""
    other = copy_of(artifact, folder)
    manifest = load_manifest(other)
    last = manifest.variants[-1]
    graph = Path(last.execution.files[0].path).parent
    files = []
    for gpu in gpus:
        path = graph / "engines" / gpu / "a.engine"
        (other / path).parent.mkdir(parents=True)
        (other / path).write_bytes(f"{gpu} of {folder.name}".encode())
        files.append(File.of(other, path.as_posix()))
    changes = {"device": "tensorrt", "precision": "fp16", **changes, "files": (*last.execution.files, *files)}
    last = last.model_copy(update={"name": "tensorrt-fp16", "execution": last.execution.model_copy(update=changes)})
    manifest.model_copy(update={"variants": (*manifest.variants[:-1], last), "default_variant": "fp32"}).save(other)
    return other


def test_a_tensorrt_variant_gets_the_engines_of_each_gpu(tiny_artifact: Path, tmp_path: Path) -> None:
    first = with_engines(tiny_artifact, tmp_path / "first", "h100")
    other = with_engines(tiny_artifact, tmp_path / "other", "h100", "l4")
    combined = combine([first, other], tmp_path / "out")
    check_files(tmp_path / "out", combined.manifest)
    assert names(combined.manifest) == ["fp32", "tensorrt-fp16"]
    assert combined.left_out == (("fp32", other), ("tensorrt-fp16", other))
    graph, *engines = combined.manifest.variant("tensorrt-fp16").execution.files
    assert graph == load_manifest(first).variant("tensorrt-fp16").execution.files[0]
    folder = Path(graph.path).parent / "engines"
    assert [file.path for file in engines] == [f"{folder}/{gpu}/a.engine" for gpu in ("h100", "l4")]
    found = [(tmp_path / "out" / file.path).read_text() for file in engines]
    assert found == ["h100 of first", "l4 of other"]  # the first's where both have one
    with pytest.raises(ArtifactError, match="has no variant that the artifacts before it lack"):
        combine([other, first], tmp_path / "again")
    shapes = with_engines(tiny_artifact, tmp_path / "shapes", "l4", provider_options={"trt_profile_max_shapes": "x"})
    with pytest.raises(ArtifactError, match="has no variant that the artifacts before it lack"):
        combine([first, shapes], tmp_path / "again")


def test_the_remedy_for_other_files_can_be_followed(tiny_artifact: Path, tmp_path: Path) -> None:
    for name, words in (("int8", r"or one of them with --variants that do not include int8$"), ("fp32", r"packages$")):
        other = copy_of(tiny_artifact, tmp_path / name)
        with (other / "onnx" / name / "model.onnx").open("ab") as file:
            file.write(b"\0")
        rehash(other)
        with pytest.raises(ArtifactError, match=f"before it is the same variant with other files; .*{words}"):
            combine([tiny_artifact, other], tmp_path / "out")


def test_out_must_be_apart_from_the_artifacts(tiny_artifact: Path, openvino: Path, tmp_path: Path) -> None:
    """--overwrite would delete an artifact that it was made of."""
    first = copy_of(tiny_artifact, tmp_path / "first")
    inner = copy_of(openvino, first / "inner")
    (tmp_path / "link").symlink_to(first)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for sources, out, word in (
        ([first, openvino], first, "is"),
        ([openvino, first], tmp_path / "link", "is"),
        ([openvino, inner], first, "holds"),
        ([first, openvino], first / "new", "lies in"),
    ):
        for overwrite in (False, True):
            with pytest.raises(
                TuneportError, match=f"{out} {word} .*, one of the artifacts to combine; choose an --out"
            ):
                combine(sources, out, overwrite=overwrite)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_artifact_is_not_combined_with_itself(tiny_artifact: Path, artifact: Path, tmp_path: Path) -> None:
    for other in (tiny_artifact, artifact):
        with pytest.raises(ArtifactError, match="are one artifact"):
            combine([tiny_artifact, other], tmp_path / "out")


def test_temperatures_that_differ_in_their_last_digits_are_one(
    tiny_artifact: Path, openvino: Path, tmp_path: Path
) -> None:
    temperature = load_manifest(tiny_artifact).processing.temperature
    other = copy_of(openvino, tmp_path / "other")
    other_processing(other, temperature=temperature * 1.0005)
    assert combine([tiny_artifact, other], tmp_path / "out").manifest.processing.temperature == temperature


def test_references_of_generated_tokens_must_agree(manifest: Manifest) -> None:
    def source(**outputs: Any) -> Source:
        return Source(Path("artifact"), manifest, [GoldenCase(batch="b", input="x", outputs=(outputs,))], "")

    first = source(tokens=[5, 6], margins=[1.0, 1.0])
    assert reference_difference(first, source(tokens=[5, 6], margins=[0.9, 0.9])) == 0
    with pytest.raises(GateError, match=r"differ by 0\.333"):
        reference_difference(first, source(tokens=[5, 7], margins=[1.0, 1.0]))
    for damaged in ({"tokens": None}, {"logits": [[1.0], [2.0, 3.0]]}, {}):
        with pytest.raises(GateError, match="differ by inf"):
            reference_difference(first, source(**damaged))


def test_a_variant_that_fails_its_golden_cases_ends_the_command(
    tiny_artifact: Path, openvino: Path, tmp_path: Path
) -> None:
    other = copy_of(openvino, tmp_path / "other")
    variants = json.loads((other / MANIFEST).read_text(encoding="utf-8"))["variants"]
    variants[1]["evidence"]["tolerance"] = -1.0
    reseal(other, {"variants": variants})
    with pytest.raises(GateError, match="variant openvino differs from torch"):
        combine([tiny_artifact, other], tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["other"]


def test_where_no_variant_runs_nothing_can_be_proven(
    both: tuple[Path, Combined], tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "_cpu_obstacle", lambda *_: "needs the package onnxruntime")
    with pytest.raises(EngineError, match=r"no variant runs here: fp32 needs .*combine the artifacts on a host where"):
        combine([both[0], copy_with_two_int8(tiny_artifact, tmp_path / "other")], tmp_path / "out")


def copy_with_two_int8(artifact: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy whose int8 variant is for other processors, as --instruction-set avx2 makes it."""
    other = copy_of(artifact, folder)
    graph = onnx.load(other / "onnx" / "int8" / "model.onnx")
    graph.doc_string = "for other processors"
    onnx.save(graph, other / "onnx" / "int8" / "model.onnx")
    rehash(other)
    variants = json.loads((other / MANIFEST).read_text(encoding="utf-8"))["variants"]
    execution = variants[1]["execution"]
    execution |= {"reduce_range": not execution["reduce_range"], **changes}
    reseal(other, {"variants": variants})
    return other


def test_int8_for_other_processors_is_another_variant(tiny_artifact: Path, tmp_path: Path) -> None:
    other = copy_with_two_int8(tiny_artifact, tmp_path / "other")
    combined = combine([tiny_artifact, other], tmp_path / "out")
    assert names(combined.manifest) == ["fp32", "int8", "cpu-int8"]
    files = {each.name: each.execution.files for each in combined.manifest.variants}
    assert [file.path for file in files["cpu-int8"]] == ["onnx/cpu-int8/model.onnx"]
    assert files["cpu-int8"][0].sha256 == load_manifest(other).variant("int8").execution.files[0].sha256
    third = copy_with_two_int8(tiny_artifact, tmp_path / "third", min_compute_capability="8.0")
    with pytest.raises(ArtifactError, match="has a variant int8, and cpu-int8 is taken, too"):
        combine([tiny_artifact, other, third], tmp_path / "again")


@pytest.fixture
def command_line(tiny_artifact: Path, openvino: Path, tmp_path: Path) -> Iterator[list[str | Path]]:
    (tiny_artifact / SIGNATURE).write_text("of the old manifest")
    yield ["combine", tiny_artifact, openvino, "--out", tmp_path / "out"]
    (tiny_artifact / SIGNATURE).unlink()


def test_the_command_says_what_it_found(command_line: list[str | Path], openvino: Path, tmp_path: Path) -> None:
    answer = tuneport(*command_line)
    assert answer.code == 0, answer.err
    assert "openvino: files intact; golden cases match, max |Δ|" in answer.out
    assert f"left out: fp32 of {openvino} with its evidence, because an artifact before it has" in answer.out
    assert "running the golden cases of openvino" in answer.err
    assert not (tmp_path / "out" / SIGNATURE).exists()
    again = tuneport(*command_line)
    assert again.code == 1
    assert_one_line(without_progress(again.err), "exists", "--overwrite")
    found = json.loads(tuneport(*command_line, "--overwrite", "--name", "news", "--json", "--quiet").out)
    manifest = load_manifest(tmp_path / "out")
    assert (found["name"], found["version"]) == ("news", manifest.version)
    assert [each["name"] for each in found["variants"]] == ["fp32", "int8", "openvino"]
    assert found["left_out"] == [{"variant": "fp32", "artifact": str(openvino)}]
    assert tuneport(*command_line, "--overwrite", "--name", "No Name").code == 2


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["fp32", "int8"], "the variants of its other measurements"),
        (["absent"], "the variants of its other measurements"),
        ([], "at least 1 item"),
    ],
)
def test_measurements_of_variants_that_are_not_there_are_refused(
    both: tuple[Path, Combined], others: list[str], words: str
) -> None:
    content = both[1].manifest.model_dump(mode="json")
    content["others"] = [{**content["others"][0], "variants": others}] * (2 if others == ["fp32", "int8"] else 1)
    with pytest.raises(ValidationError, match=words):
        Manifest.model_validate_json(json.dumps(content), strict=True)
    content["others"] = [{**both[1].manifest.model_dump(mode="json")["others"][0], "default_variant": "fp16"}]
    with pytest.raises(ValidationError, match="is the default variant of measurements that do not have it"):
        Manifest.model_validate_json(json.dumps(content), strict=True)


def test_only_a_combined_artifact_needs_a_version_that_can_combine(artifact: Path, both: tuple[Path, Combined]) -> None:
    """Earlier ones refuse a manifest with a field that they do not know, so that a plain export must not have it."""
    load_manifest(artifact).save(artifact)
    assert "others" not in json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
    assert load_manifest(artifact).others == ()
    assert len(json.loads((both[0] / MANIFEST).read_text(encoding="utf-8"))["others"]) == 1
    reseal(artifact, {"others": []})  # as the versions wrote it that could combine first
    assert load_manifest(artifact).others == ()
