"""Opens the engine in a thread, while the rows of the first chunk are read and tokenized."""

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tuneport.runtime.device_options import DeviceOptions
from tuneport.runtime.loading import build_runner, open_task
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Manifest, Variant
from tuneport.scoring.plan import Plan


def open_engine(plan: Plan) -> tuple[RuntimeTask, "Future[Predictor]"]:
    """Return the task as soon as it is open, and the predictor to come. Both raise as `Predictor` does."""
    task: Future[RuntimeTask] = Future()

    def open_runner(
        folder: Path,
        manifest: Manifest,
        variant: Variant,
        *,
        threads: int | None,
        device_options: DeviceOptions,
    ) -> ModelRunner:
        opened = open_task(folder, manifest.task, manifest.labels, manifest.processing)
        task.set_result(opened)
        return build_runner(
            folder,
            manifest.task,
            opened,
            variant.execution,
            manifest.processing,
            threads=threads,
            device_options=device_options,
        )

    def open_predictor() -> Predictor:
        config = plan.config
        return Predictor(
            config.artifact,
            plan.variant,
            threads=plan.threads,
            max_batch_tokens=config.max_batch_tokens,
            open_runner=open_runner,
        )

    pool = ThreadPoolExecutor(1, thread_name_prefix="open_engine")
    predictor = pool.submit(open_predictor)
    pool.shutdown(wait=False)
    futures: tuple[Future[Any], ...] = (task, predictor)
    wait(futures, return_when=FIRST_COMPLETED)
    if not task.done():
        predictor.result()  # raises what prevents the task
    return task.result(), predictor
