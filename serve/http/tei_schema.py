"""Requests of Text Embeddings Inference's routes, and which models these routes are for."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tuneport.errors import InputError
from tuneport.schema.artifact import Manifest

REGRESSION, CLASSIFICATION = "regression", "text-classification"


class TeiRequest(BaseModel):
    """What both requests have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    raw_scores: bool = False
    """Return outputs as they are, where a score is otherwise between 0 and 1; not for classifiers."""
    truncate: bool | None = None
    """Whether to truncate what is longer than the model's maximum, which is the default, or to refuse it."""
    truncation_direction: Literal["right", "Right"] = "right"


class PredictRequest(TeiRequest):
    """The body of `/tei/predict`."""

    inputs: str | list[str] | list[list[str]]
    """A text, a list with a text or a pair of texts, or a list of such lists."""

    def pairs(self) -> list[tuple[str, ...]]:
        """Return the inputs, each a text or a pair; raises InputError for other numbers of texts."""
        if isinstance(self.inputs, str):
            return [(self.inputs,)]
        batches = self.inputs if self.is_batch else [self.inputs]
        inputs = [tuple(map(str, each)) for each in batches]
        if wrong := [each for each in inputs if len(each) not in (1, 2)]:
            raise InputError(f"an input has {len(wrong[0])} texts", "send one text or a pair of texts in each list")
        return inputs

    @property
    def is_batch(self) -> bool:
        """Whether the answer is a list for each input."""
        return isinstance(self.inputs, list) and all(isinstance(each, list) for each in self.inputs)


class RerankRequest(TeiRequest):
    """The body of `/rerank`."""

    query: str
    texts: list[str] = Field(min_length=1)
    return_text: bool = False


def predicts(manifest: Manifest) -> bool:
    """Tell whether `/tei/predict` is for a model."""
    return manifest.task == CLASSIFICATION or (manifest.task == REGRESSION and len(manifest.labels) <= 1)


def describe_predict(manifest: Manifest) -> dict[str, Any]:
    """Return the schema of the body of `/tei/predict`: what of `PredictRequest` a model takes."""
    processing, schema = manifest.processing, PredictRequest.model_json_schema()
    text, most = {"type": "string"}, 2 if processing.accepts_pairs else 1
    fewest = 1 if processing.accepts_single_texts else most
    texts = {"type": "array", "items": text, "minItems": fewest, "maxItems": most}
    batch = {"type": "array", "items": texts, "minItems": 1}
    fields = schema["properties"]
    fields["inputs"]["anyOf"] = [*([text] if fewest == 1 else []), texts, batch]
    if manifest.task != REGRESSION:
        fields["raw_scores"]["enum"] = [False]
    return schema


def reranks(manifest: Manifest) -> bool:
    """Tell whether `/rerank` is for a model."""
    return manifest.task == REGRESSION and manifest.processing.accepts_pairs and len(manifest.labels) <= 1
