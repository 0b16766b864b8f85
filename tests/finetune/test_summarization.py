"""Summaries are scored by ROUGE, and transformers alone generates them from the checkpoint."""

from pathlib import Path

import pytest
from kit.data import write_pairs
from kit.generative import build_seq2seq
from kit.texts import pairs
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tuneport.data.reader import read_data
from tuneport.metrics.text import ROUGE, AnyScript
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.tasks.summarization import Task
from tuneport.stages.finetune.train import finetune
from tuneport.tasks import task_spec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), pairs(16), pairs(8, seed=5))


def test_a_run_records_rouge_of_what_the_checkpoint_generates(data: Path, tmp_path: Path) -> None:
    flags = {
        "task": "summarization", "model": str(build_seq2seq(tmp_path / "base", "bart")), "data": str(data),
        "max_length": 32, "max_target_length": 8, "max_steps": 30, "learning_rate": 5e-3, "eval_strategy": "epoch",
        "load_best_model_at_end": True, "report_to": [], "bf16": False, "per_device_train_batch_size": 8,
    }  # fmt: skip
    run = finetune(load_config(flags=flags), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    rows = pairs(8, seed=5)
    feeds = tokenizer([row["source"] for row in rows], padding=True, return_tensors="pt")
    ids = model.generate(input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"])
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    scorer = RougeScorer(ROUGE, use_stemmer=True)
    scores = [scorer.score(row["target"], text) for row, text in zip(rows, written, strict=True)]
    for metric in ROUGE:
        expected = sum(score[metric].fmeasure for score in scores) / len(scores)
        assert run.metrics["test"][metric] == pytest.approx(expected)
    assert run.metrics["test"]["rouge1"] > 0.1


def test_rouge_counts_words_pairs_and_the_longest_common_sequence(data: Path) -> None:
    config = load_config(flags={"task": "summarization", "model": "any", "data": str(data)})
    task = Task(
        read_data(str(data), columns={}, required=task_spec("summarization").columns, optional=(), seed=0), config
    )
    metrics, rows = task.score(["the cats sat", "nothing"], ["the cat sat down", "a b"])
    # Stems: "cats" is "cat". 3 of 3 words against 3 of 4; 2 of 2 pairs against 2 of 3.
    assert metrics["rouge1"] == pytest.approx((6 / 7) / 2)
    assert metrics["rouge2"] == pytest.approx((4 / 5) / 2)
    assert rows == pytest.approx([6 / 7, 0])


def test_words_of_any_script_count() -> None:
    texts = ["Running cats, 42 times!", "It's a state-of-the-art test_case"]
    default = RougeScorer(["rouge1"], use_stemmer=True)._tokenizer
    assert [AnyScript().tokenize(text) for text in texts] == [default.tokenize(text) for text in texts]
    assert AnyScript().tokenize("Über привет runs") == ["über", "привет", "run"]
