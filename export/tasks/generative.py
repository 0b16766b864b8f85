"""What the tasks share that write text: how they are processed, and how transformers alone reads their inputs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from export.checkpoint import Checkpoint
from export.generative_checkpoint import generation_of
from export.manifest import Generation, Processing
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row


class WritingTask(ABC):
    """One checkpoint that writes."""

    auto_model: ClassVar[str] = "AutoModelForSeq2SeqLM"
    outputs: ClassVar[tuple[str, ...]] = ("tokens",)
    metric: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    most_rows: ClassVar[int] = 200
    """Of validation data that the gate looks at: writing is slow."""
    columns: tuple[str, ...] = ("source", "target")
    example: Any = "Yes."

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint."""
        assert checkpoint.sizes is not None
        self.checkpoint = checkpoint
        self.sizes = checkpoint.sizes

    def processing(self) -> Processing:
        """Say how prompts are cut and padded, and what is written by default."""
        tokenizer = self.checkpoint.tokenizer
        trained = self.checkpoint.run.config if self.checkpoint.run else {}
        extractor = self.checkpoint.extractor
        return Processing(
            max_length=self.sizes.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
            padding_side="left" if self.checkpoint.task == "text-generation" else "right",
            generation=Generation(
                max_new_tokens=self.sizes.max_new_tokens,
                num_beams=generation_of(self.checkpoint.folder, self.checkpoint.config).num_beams or 1,
                prefix=trained.get("source_prefix") or "",
                source_language=trained.get("source_language"),
                target_language=trained.get("target_language"),
                sampling_rate=extractor.sampling_rate if extractor is not None else None,
                positions=self.sizes.positions,
            ),
        )

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return a row's text and the right answer."""
        for name in self.columns:
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"{name} is not a text")
        return row[self.columns[0]], row[self.columns[1]].strip()

    def with_text(self, text: str, like: Any) -> Any:
        """Take a text as it is."""
        return text

    def for_torch(self, given: Sequence[Any]) -> dict[str, Any]:
        """Read inputs as transformers does: the arguments of `generate`, padded tensors, rows first."""
        generation = self.processing().generation
        assert generation is not None
        return self.encode([(generation.prefix + text, True) for text in given])

    def encode(self, texts: Sequence[tuple[str, bool]]) -> dict[str, Any]:
        """Tokenize texts, each with special tokens if its flag says so, and pad."""
        tokenizer = self.checkpoint.tokenizer
        is_left = self.checkpoint.task == "text-generation"
        tokenizer.padding_side = tokenizer.truncation_side = "left" if is_left else "right"
        limit = self.sizes.max_length
        rows = [
            tokenizer(text, add_special_tokens=special, truncation=True, max_length=limit, verbose=False)["input_ids"]
            for text, special in texts
        ]
        begin = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        nothing = [next(token for token in begin if token is not None)]
        padded = tokenizer.pad({"input_ids": [ids or nothing for ids in rows]}, return_tensors="pt", verbose=False)
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Any],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[Any],
    ) -> float:
        """Compute the metric of the texts that a model wrote."""
        parameters = serving.parameters()
        parts = zip(given, windows, results, strict=True)
        return self.score_texts([serving.decode(*part, parameters)["text"] for part in parts], list(targets))

    @abstractmethod
    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Compute the metric."""
