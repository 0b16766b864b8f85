"""The service that BentoML's documentation shows for batching: `@bentoml.api(batchable=True)` over the same graph.

ARTIFACT=… bentoml serve tuneport.stages.benchmarks.peers.bento_batchable:TextClassification
"""

from typing import Any

import bentoml

from .graph import TextGraph


@bentoml.service(workers=1, traffic={"timeout": 60}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class TextClassification:
    """Answers `{"texts": […]}` with a list of `{"label", "score"}`; its metrics and its access log are off."""

    def __init__(self) -> None:
        """Open the graph."""
        self.graph = TextGraph()

    @bentoml.api(batchable=True)
    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """Classify the texts of several requests."""
        return self.graph.classify(texts)
