"""GPT-2 and Llama (a chat), from a fine-tuning run to a prediction, with their parameters and inputs."""

import functools
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
import pytest
import torch
from kit import ROOT
from kit.artifacts import change_byte, packed_model
from kit.command import tuneport
from kit.engines import wait_until
from kit.exports import quick_exports
from kit.generative_exports import Export, operators
from kit.transformers_alone import (
    assert_batches_change_nothing,
    assert_fp32_generates_the_same,
    assert_io_binding_changes_nothing,
    assert_the_metric_is_the_same,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneport.errors import GateError, InputError
from tuneport.runtime.backends.generative import GenerativeRunner
from tuneport.runtime.golden import check_golden
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks.generation import Prompt
from tuneport.runtime.tasks.text_generation import Task
from tuneport.schema.loading import load_golden
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.generative import generative_int4
from tuneport.stages.export.pipeline import export
from tuneport.stages.serve.bento import build


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_fp32_generates_what_transformers_generates(family: str, exported: Export) -> None:
    assert_fp32_generates_the_same(exported(family))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_metric_is_that_of_what_transformers_generates(family: str, exported: Export) -> None:
    assert_the_metric_is_the_same(exported(family))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_io_binding_changes_nothing(family: str, exported: Export) -> None:
    assert_io_binding_changes_nothing(exported(family))


def test_alone_in_a_batch_and_permuted_the_predictions_are_the_same(exported: Export) -> None:
    assert_batches_change_nothing(exported("gpt2"))


def test_llama_has_int4_weights(exported: Export) -> None:
    assert "MatMulNBits" in operators(exported("llama").artifact / "onnx/int4/model.onnx")


def test_gpt2_has_int4_weights_though_its_layers_are_gemms(exported: Export, tmp_path: Path) -> None:
    graph = Graph(exported("gpt2").artifact / "onnx" / "fp32", ("model.onnx",))
    context = BuildContext(graph, (), "minmax", smoothquant=False, model_type="gpt2", num_heads=4, hidden_size=32)
    assert generative_int4(graph, context, tmp_path).files == ("model.onnx",)
    assert operators(tmp_path / "model.onnx").count("MatMulNBits") == 8


def test_golden_cases_find_a_model_that_generates_other_tokens(exported: Export) -> None:
    model = exported("gpt2")
    runner, fp32 = model.predictor.runner, model.manifest.variant("fp32")
    cases = load_golden(model.artifact)
    assert check_golden(runner, cases, fp32) < 1e-3
    wrong = [case.model_copy(update={"outputs": ({**case.outputs[0], "tokens": [1, 2]},)}) for case in cases]
    with pytest.raises(GateError, match="differs from torch by"):
        check_golden(runner, wrong, fp32)


def test_parameters_do_what_they_say(exported: Export) -> None:
    model = exported("llama")
    predictor, ask = model.predictor, model.inputs[:1]

    def text(**parameters: Any) -> dict[str, Any]:
        return predictor.predict(ask, parameters)[0]

    plain = text()
    three = text(max_new_tokens=3)
    assert three["finish_reason"] == "length"
    assert plain["text"].startswith(three["text"])
    assert text(temperature=0, top_p=0.5) == text(temperature=1e-45) == plain
    drawn = [text(temperature=5.0, seed=seed, max_new_tokens=8) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert text(top_k=1, max_new_tokens=3) == three
    stopped = text(stop=plain["text"][2:4])
    assert stopped == {"text": plain["text"][: plain["text"].index(plain["text"][2:4])], "finish_reason": "stop"}


@pytest.mark.parametrize("parameters", [{"max_new_tokens": 4}, {"max_new_tokens": 4, "num_beams": 2}])
def test_the_capture_of_a_cuda_graph_waits_for_no_more_than_a_token(
    exported: Export, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any]
) -> None:
    """With streams a callback is told of each token; with beams the model's forward is."""
    predictor, order, captures = exported("gpt2").predictor, list[str](), list[Future[None]]()
    runner = predictor.runner
    assert isinstance(runner, GenerativeRunner)
    forward, plain = runner.model.forward, predictor.predict(["eins zwei"], parameters)

    def capture() -> None:
        with runner._guard.capturing():
            order.append("capture")

    @functools.wraps(forward)  # transformers reads its parameters
    def run(*inputs: Any, **feeds: Any) -> Any:
        order.append("token")
        if len(captures) < 2:
            captures.append(pool.submit(capture))
            wait_until(lambda: runner._guard._captures == 1)
        return forward(*inputs, **feeds)

    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(runner.model, "forward", run)
        assert predictor.predict(["eins zwei"], parameters) == plain
    assert order == ["token", "capture", "token", "capture", "token", "token"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 0}, {"num_beams": 99}, {"temperature": -1}, {"top_p": 0}, {"stop": [""]}, {"stop": [1]},
        {"num_beams": 2, "temperature": 1.0}, {"num_beams": 2, "stream": True}, {"do_sample": True}, {"seed": "a"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(parameters: dict[str, Any], exported: Export) -> None:
    with pytest.raises(InputError, match="wrong parameters"):
        exported("gpt2").predictor.predict(["one"], parameters)


def test_rows_of_other_parameters_or_fewer_positions_have_another_group(exported: Export) -> None:
    task = exported("gpt2").predictor.task
    assert isinstance(task, Task)
    (short,), (long,) = task.encode([task.parse_input("one"), task.parse_input("one two " * 40)])
    assert isinstance(short, Prompt)
    assert isinstance(long, Prompt)
    parameters = [task.parameters.model_validate(each) for each in ({}, {}, {"temperature": 1.0}, {"top_k": 3})]
    groups = [task.request_rows("", [short], each)[0].group for each in parameters]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert long.truncated
    (longest,) = task.request_rows("", [long], task.parameters.model_validate({"max_new_tokens": 10_000}))
    assert isinstance(longest, Prompt)
    assert longest.sampling.max_new_tokens + len(longest) == 128  # positions of the tiny model


def test_a_reference_answer_gets_its_perplexity(exported: Export) -> None:
    model = exported("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    torch_model = AutoModelForCausalLM.from_pretrained(model.checkpoint).eval()
    ids = torch.tensor([tokenizer("one two three four")["input_ids"]])
    labels = ids.clone()
    labels[:, : len(tokenizer("one two")["input_ids"])] = -100
    with torch.inference_mode():
        expected = float(torch.exp(torch_model(input_ids=ids, labels=labels).loss))
    (answer,) = model.predictor.predict([{"text": "one two", "answer": " three four"}])
    assert answer["answer_perplexity"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [3, {"messages": []}, {"messages": [{"role": "x", "content": "a"}]}, {"text": 1}])
def test_wrong_inputs_of_a_text_model_are_named(value: Any, exported: Export) -> None:
    with pytest.raises(InputError):
        exported("llama").predictor.predict([value])


def test_messages_need_a_chat_template(exported: Export) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        exported("gpt2").predictor.predict([{"messages": [{"role": "user", "content": "hi"}]}])


def test_a_variant_that_is_not_the_file_that_passed_is_refused(exported: Export, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported("gpt2").artifact, tmp_path / "copy"))
    change_byte(copy / "processor" / "tokenizer.json")
    answer = tuneport("verify", copy)
    assert answer.code == 1
    assert "tokenizer.json is not the file" in answer.err


def test_the_bento_of_a_generative_model_has_torch(exported: Export) -> None:
    bento = bentoml.bentos.get(build(exported("gpt2").artifact).tag)
    installed = (packed_model(bento) / "requirements.txt").read_text()
    assert installed == (ROOT / "serve" / "requirements-generate.txt").read_text()
    assert "\ntorch==" in installed
    assert "\noptimum-onnx==" in installed


@pytest.mark.gpu
def test_on_a_gpu_fp32_and_fp16_generate_torchs_tokens(exported: Export, tmp_path: Path) -> None:
    """With I/O binding, and past key values on the device."""
    model = exported("gpt2")
    config = ExportConfig(
        checkpoint=model.run, name="gpt2", max_drop=0.1, variants=("fp32", "fp16"), device="cuda", data=str(model.data)
    )
    with quick_exports():
        manifest = export(config, tmp_path / "artifact")
    assert [variant.name for variant in manifest.variants] == ["fp32", "fp16"], manifest.rejected
    bound = Predictor(tmp_path / "artifact", "fp32")
    assert bound.runner.model.use_io_binding  # type: ignore[attr-defined]
    assert bound.predict(model.inputs) == model.predictor.predict(model.inputs)
    for variant in manifest.variants:
        assert variant.evidence.parity.agreement > 0.9
