"""How a worker opens the versions of its models."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kit.engines import wait_until

from tuneport.errors import TuneportError
from tuneport.runtime.backends.device_guard import GUARD
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.admission import check_cache
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.opener import Opener
from tuneport.stages.serve.settings import Settings


def test_every_version_has_the_variant_that_was_chosen_where_it_can(artifact: Path, tiny_artifact: Path) -> None:
    """Also after one that lacks it, which is the first one of a worker that starts later."""
    load_manifest(artifact).with_only(("int8",)).save(artifact)
    opener = Opener(Settings(variant="fp32", max_batch_tokens=1000), None, None, lambda: None)
    opened = [opener(folder) for folder in (artifact, tiny_artifact)]
    assert [each.inference.predictor.variant.name for each in opened] == ["int8", "fp32"]
    assert [each.settings.max_batch_tokens for each in opened] == [None, 1000]
    assert opened[0].worker is opened[1].worker
    for each in opened:
        each.inference.close()


def test_what_fails_after_the_engine_was_opened_keeps_no_model_in_memory(tiny_artifact: Path) -> None:
    opened: list[Inference] = []

    def open_inference(folder: Path, settings: Settings) -> Inference:
        opened.append(Inference.open(folder, settings))
        return opened[-1]

    settings = Settings(variant="fp32", api_keys="schlüssel")  # type: ignore[arg-type]
    with pytest.raises(TuneportError, match="key"):
        Opener(settings, None, open_inference, lambda: None)(tiny_artifact)
    [inference] = opened
    assert not hasattr(inference, "predictor")


def test_a_model_is_not_freed_while_another_one_captures_cuda_graphs(tiny_artifact: Path) -> None:
    inference = Inference.open(tiny_artifact, Settings(variant="fp32"))
    inference.close()
    with ThreadPoolExecutor(1) as pool:
        with GUARD.capturing():
            released = pool.submit(inference.release)
            wait_until(lambda: GUARD._waiting == 1)
            assert hasattr(inference, "predictor")
        released.result(60)
    assert not hasattr(inference, "predictor")


def test_a_cache_for_a_generative_model_is_refused_before_it_is_opened(manifest: Manifest) -> None:
    settings = Settings(response_cache_mib=1)
    check_cache(manifest, settings)
    with pytest.raises(TuneportError, match="RESPONSE_CACHE"):
        check_cache(manifest.model_copy(update={"task": "text-generation"}), settings)
