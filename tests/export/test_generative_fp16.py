"""Generative models in fp16, on the CPU, whose kernels compute in fp32 what they store in fp16."""

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from kit.generative import build_causal, build_seq2seq
from kit.tokenizers import word_tokenizer
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

from tuneport.errors import EngineError
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.families import load_reference
from tuneport.stages.export.generative.to_onnx import generative_to_onnx
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.generative import generative_fp16
from tuneport.tasks import task_spec

TASKS = {"gpt2": "text-generation", "llama": "text-generation", "marian": "translation", "t5": "translation"}


def context_of(graph: Graph, family: str, **changes: Any) -> BuildContext:
    return BuildContext(
        graph, (), "minmax", smoothquant=False, model_type=family, num_heads=4, hidden_size=32, **changes
    )


@pytest.mark.parametrize("family", TASKS)
def test_fp16_generates_torchs_tokens_and_keeps_its_past_in_fp16(family: str, tmp_path: Path) -> None:
    is_causal = family in ("gpt2", "llama")
    target = tmp_path / "checkpoint"
    folder = build_causal(target, family, word_tokenizer()) if is_causal else build_seq2seq(target, family)
    checkpoint = open_checkpoint(folder, task=TASKS[family])
    model = load_reference(checkpoint, task_spec(TASKS[family]).task_class("export")(checkpoint)).model
    for name in ("fp32", "fp16"):
        (tmp_path / name).mkdir()
    fp32 = generative_to_onnx(model, checkpoint, tmp_path / "fp32")
    context = context_of(
        fp32, family, export_fp16=lambda out: generative_to_onnx(copy.deepcopy(model).half(), checkpoint, out)
    )
    halved = generative_fp16(fp32, context, tmp_path / "fp16")
    decoder = "model.onnx" if is_causal else "decoder_model_merged.onnx"
    assert decoder in halved.files
    inputs = onnx.load(tmp_path / "fp16" / decoder).graph.input
    past = {each.type.tensor_type.elem_type for each in inputs if "past" in each.name}
    assert past == {onnx.TensorProto.FLOAT16}
    kind = ORTModelForCausalLM if is_causal else ORTModelForSeq2SeqLM
    ids = torch.tensor([[5, 6, 7, 8], [9, 5, 9, 6]])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "num_beams": 1, "do_sample": False}
    expected = model.generate(input_ids=ids, **settings).tolist()
    for use_io_binding in (False, True):  # as on a CPU, and as on a GPU
        ours = kind.from_pretrained(tmp_path / "fp16", use_io_binding=use_io_binding)
        assert ours.generate(input_ids=ids, **settings).tolist() == expected


def test_an_encoder_decoder_needs_its_torch_model(tmp_path: Path) -> None:
    graph = Graph(tmp_path, ("encoder_model.onnx", "decoder_model_merged.onnx"))
    with pytest.raises(EngineError, match="torch model"):
        generative_fp16(graph, context_of(graph, "marian"), tmp_path)
