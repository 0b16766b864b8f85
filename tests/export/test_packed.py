"""Graphs for GPUs, proven without one: packed, fp16 and bf16 graphs against torch, through serving's own batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from kit.packed import ReferenceBackend
from optimum.exporters.onnx import export as convert
from transformers import PreTrainedModel

from tuneport.errors import EngineError
from tuneport.modeling.heads import PooledClassifier, PooledConfig
from tuneport.runtime.backends.gpu import GpuBackend
from tuneport.runtime.batch import EncodedInput, RowOutputs, packed_batch, padded_batch
from tuneport.schema.artifact import Processing
from tuneport.stages.export.graph import Graph, quiet
from tuneport.stages.export.onnx_configs import onnx_config
from tuneport.stages.export.passes.bf16 import bf16
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.fp16 import fp16
from tuneport.stages.export.passes.fuse import fuse, fuse_multi_head
from tuneport.stages.export.passes.packed import packed, packed_multi_head

VOCABULARY, LENGTHS = 600, (17, 1, 5, 40, 64, 3)
"""A vocabulary larger than the positions: the fusion tells the two tables apart by their sizes."""
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 66, "initializer_range": 0.2, "num_labels": 3,
}  # fmt: skip
ROBERTA = {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}
DISTILBERT = {
    "vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "initializer_range": 0.2,
    "max_position_embeddings": 66, "num_labels": 3,
}  # fmt: skip
POOLINGS = ("cls", "mean", "attention")
CLASSIFICATION, TOKENS, ANSWERS = "text-classification", "token-classification", "question-answering"


@dataclass(frozen=True)
class Case:
    """A model in torch, its outputs and its fp32 graph."""

    rows: list[EncodedInput]
    processing: Processing
    outputs: list[RowOutputs]
    graph: Graph
    context: BuildContext
    folder: Path

    def build(self, *passes: Any) -> Graph:
        graph = self.graph
        for number, each in enumerate(passes):
            folder = self.folder / "-".join([*(one.__name__ for one in passes[: number + 1])])
            folder.mkdir(exist_ok=True)
            graph = each(graph, self.context, folder)
        return graph

    def difference(self, results: Sequence[RowOutputs]) -> float:
        """Return the largest |Δ| to torch."""
        assert [each.keys() for each in results] == [each.keys() for each in self.outputs]
        pairs = [(row[name], mine[name]) for row, mine in zip(self.outputs, results, strict=True) for name in row]
        assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
        return max(float(np.abs(a - b.astype(np.float32)).max()) for a, b in pairs)


def model_of(name: str) -> tuple[PreTrainedModel, str]:
    """Return a random model of a family and task."""
    family, task = name.split()
    sizes = ROBERTA if "oberta" in family.lower() else DISTILBERT if family == "DistilBert" else SIZES
    config = getattr(transformers, f"{family}Config")(**sizes)
    if family == "ModernBert":
        config.pad_token_id = 0
    if family == "Electra":
        config.embedding_size = 16  # projected to the hidden size
    if task in POOLINGS:
        pooled = PooledConfig(encoder=config.to_dict(), pooling=task, num_labels=3, pad_token_id=config.pad_token_id)
        return PooledClassifier(pooled), CLASSIFICATION
    config.num_labels = 2 if task == "answer" else 3
    head = {"classify": "SequenceClassification", "tag": "TokenClassification", "answer": "QuestionAnswering"}[task]
    kind = {"classify": CLASSIFICATION, "tag": TOKENS, "answer": ANSWERS}[task]
    return getattr(transformers, f"{family}For{head}")(config), kind


def case_of(name: str, folder: Path) -> Case:
    torch.manual_seed(0)
    model, task = model_of(name)
    model.eval()
    encoder_class = model.encoder if isinstance(model, PooledClassifier) else model
    takes_types = "token_type_ids" in encoder_class.forward.__code__.co_varnames
    types = takes_types and not name.lower().startswith(("roberta", "xlmroberta", "distilbert"))
    rng = np.random.default_rng(0)
    rows = [
        EncodedInput(rng.integers(10, VOCABULARY, n).tolist(), [0] * (n // 2) + [int(types)] * (n - n // 2), False)
        for n in LENGTHS
    ]
    processing = Processing(max_length=64, pad_token_id=getattr(model.config, "pad_token_id", None) or 0)
    batch = padded_batch(rows, processing)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    with torch.inference_mode():
        found = model(**{each: torch.from_numpy(batch.feeds[each]) for each in names})
    outputs = {each: found[each].numpy() for each in ("logits", "start_logits", "end_logits") if each in found}
    per_token = task != CLASSIFICATION
    with quiet():
        config = onnx_config(model.config, task, {each: torch.from_numpy(batch.feeds[each]) for each in names})
        convert(model, config, folder / "model.onnx", opset=config.DEFAULT_ONNX_OPSET)
    graph = Graph(folder, ("model.onnx",))
    context = BuildContext(
        graph, [batch.feeds], "minmax", smoothquant=False, model_type=model.config.model_type, num_heads=2,
        hidden_size=32, device="cuda", per_token=per_token,
    )  # fmt: skip
    return Case(rows, processing, batch.split(outputs, per_token=per_token), graph, context, folder)


FAMILIES = ("Bert", "Roberta", "XLMRoberta", "DistilBert", "Electra")
QUICK = {
    "Bert classify", "Bert tag", "Bert answer", "Bert mean", "Bert attention", "Roberta classify", "XLMRoberta tag",
    "DistilBert classify", "DistilBert answer", "Electra classify",
}  # fmt: skip
"""Each family, task and pooling once; the others are as many again."""
CASES = [
    pytest.param(case, marks=() if case in QUICK else pytest.mark.slow)
    for case in (f"{family} {task}" for family in FAMILIES for task in ("classify", "tag", "answer", *POOLINGS))
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(request.param, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize("pack", [packed, packed_multi_head])
def test_packed_graphs_answer_as_torch_does(case: Case, pack: Any) -> None:
    """Mixed lengths, one token and the longest; in fp32, where nothing but the layout differs, and in fp16."""
    for passes, tolerance in (((fuse, pack), 2e-5), ((fuse, fp16, pack), 2e-2)):
        graph = case.build(*passes)
        batch = packed_batch(case.rows)
        results = batch.split(ReferenceBackend(onnx.load(graph.path)).run(batch), per_token=case.context.per_token)
        assert case.difference(results) < tolerance
        # onnxruntime knows the operators and their types; what it lacks is the kernel.
        with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|Kernel not found") as caught:
            ort.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
        assert "Packed" in str(caught.value)


def test_the_fused_fp16_graph_answers_as_torch_does(case: Case) -> None:
    """On the CPU, which stores fp16 and computes most of it in fp32."""
    graph = case.build(fuse, fp16)
    session = ort.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    assert "Attention" in {node.op_type for node in onnx.load(graph.path).graph.node}
    assert {each.type for each in session.get_inputs()} == {"tensor(int32)"}
    batch = padded_batch(case.rows, case.processing)
    names = [each.name for each in session.get_outputs()]
    values = session.run(names, {each.name: batch.feeds[each.name].astype(np.int32) for each in session.get_inputs()})
    results = batch.split(dict(zip(names, values, strict=True)), per_token=case.context.per_token)
    assert case.difference(results) < 2e-2


def test_bf16_graphs_answer_nearly_as_torch_does(case: Case) -> None:
    graph = case.build(fuse_multi_head, bf16)
    batch = padded_batch(case.rows, case.processing)
    model = onnx.load(graph.path)
    results = batch.split(ReferenceBackend(model).run(batch), per_token=case.context.per_token)
    assert case.difference(results) < 0.15
    kinds = {each.data_type for each in model.graph.initializer if len(each.dims) == 2}
    assert onnx.TensorProto.BFLOAT16 in kinds


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("passes", "tolerance"),
    [
        ((fuse,), 1e-3),
        ((fuse, packed), 1e-3),
        ((fuse, packed_multi_head), 1e-3),
        ((fuse, fp16), 3e-2),
        ((fuse, fp16, packed), 3e-2),
        ((fuse, fp16, packed_multi_head), 3e-2),
        ((fuse_multi_head, bf16), 0.2),
    ],
    ids=lambda each: "-".join(one.__name__ for one in each) if isinstance(each, tuple) else "",
)
def test_cuda_answers_as_torch_does(case: Case, passes: Any, tolerance: float) -> None:
    graph = case.build(*passes)
    is_packed = passes[-1] in (packed, packed_multi_head)
    batch = packed_batch(case.rows) if is_packed else padded_batch(case.rows, case.processing)
    backend = GpuBackend(graph.path, streams=2, provider_options={"use_tf32": "0"})
    for _ in range(4):  # both streams, with buffers that were used before
        results = batch.split(backend.run(batch), per_token=case.context.per_token)
        assert case.difference(results) < tolerance


@pytest.mark.gpu
def test_a_cuda_graph_answers_as_its_kernels_do_one_by_one(case: Case) -> None:
    graph = case.build(fuse, fp16)
    plain = GpuBackend(graph.path)
    captured = GpuBackend(graph.path, streams=2, graph_shapes=[(1, 16), (2, 64), (8, 64)])
    for rows in (case.rows[1:2], case.rows[:2], case.rows, case.rows[3:5], case.rows[1:2]):
        batch = padded_batch(rows, case.processing)
        both = [batch.split(each.run(batch), per_token=case.context.per_token) for each in (plain, captured)]
        for one, other in zip(*both, strict=True):
            for name, values in one.items():
                # Kernels are chosen by shape, so that sums are rounded in another order.
                np.testing.assert_allclose(values, other[name], atol=2e-2)


@pytest.mark.parametrize("family", ["MPNet", "ModernBert", "Albert"])
def test_a_model_whose_attention_is_not_fused_is_refused(family: str, tmp_path: Path) -> None:
    case = case_of(f"{family} classify", tmp_path)
    with pytest.raises(EngineError, match="packing"):
        case.build(fuse, packed)
