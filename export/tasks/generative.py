"""Base classes of the generative tasks at export time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Generation, Processing

from ..checkpoint import Checkpoint
from ..generative.checkpoint import generation_config
from .base import ExportTask


class GenerationExportTask(ExportTask):
    """A generative checkpoint: how its prompts are encoded, and its defaults of generation."""

    outputs: ClassVar[tuple[str, ...]] = ("tokens",)
    pads_left: ClassVar = False
    """Whether prompts are padded and truncated on the left, so that generation continues their end."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint and its limits."""
        super().__init__(checkpoint)
        assert checkpoint.generation_limits is not None
        self.limits = checkpoint.generation_limits

    def processing(self) -> Processing:
        """Return how prompts are truncated and padded, and the defaults of generation."""
        tokenizer = self.checkpoint.tokenizer
        trained = self.checkpoint.run.config if self.checkpoint.run else {}
        extractor = self.checkpoint.extractor
        return Processing(
            max_length=self.limits.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
            padding_side="left" if self.pads_left else "right",
            generation=Generation(
                max_new_tokens=self.limits.max_new_tokens,
                num_beams=generation_config(self.checkpoint.folder, self.checkpoint.config).num_beams or 1,
                prefix=trained.get("source_prefix") or "",
                source_language=trained.get("source_language"),
                target_language=trained.get("target_language"),
                sampling_rate=extractor.sampling_rate if extractor is not None else None,
                positions=self.limits.positions,
            ),
        )

    def torch_inputs(self, parsed_inputs: Sequence[Any]) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask`, int64 (inputs, tokens)."""
        generation = self.processing().generation
        assert generation is not None
        return self.encode([(generation.prefix + text, True) for text in parsed_inputs])

    def encode(self, texts: Sequence[tuple[str, bool]]) -> dict[str, Any]:
        """Tokenize pairs of a text and whether it gets special tokens; returns padded int64 (texts, tokens)."""
        tokenizer = self.checkpoint.tokenizer
        tokenizer.padding_side = tokenizer.truncation_side = "left" if self.pads_left else "right"
        limit = self.limits.max_length
        rows = [
            tokenizer(text, add_special_tokens=special, truncation=True, max_length=limit, verbose=False)["input_ids"]
            for text, special in texts
        ]
        # generate needs at least one token.
        candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        start = [next(token for token in candidates if token is not None)]
        padded = tokenizer.pad({"input_ids": [ids or start for ids in rows]}, return_tensors="pt", verbose=False)
        return {name: padded[name] for name in ("input_ids", "attention_mask")}


class TargetTextTask(GenerationExportTask):
    """A generative task whose rows have a source and a target text, its two columns; scored on the generated texts."""

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return a row's source text."""
        return self._text_of(row, self.columns[0])

    def read_target(self, row: dict[str, Any]) -> str:
        """Return a row's target text."""
        return self._text_of(row, self.columns[1]).strip()

    def _text_of(self, row: dict[str, Any], name: str) -> str:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name} is not a text")
        return str(row[name])

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Any],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[Any],
    ) -> float:
        """Decode the generated tokens and compute the metric of the texts."""
        parameters = runtime_task.parameters()
        triples = zip(parsed_inputs, windows, results, strict=True)
        return self.score_texts([runtime_task.decode(*each, parameters)["text"] for each in triples], list(targets))

    @abstractmethod
    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Compute the metric of generated texts against targets."""
