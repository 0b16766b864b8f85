"""Packages that only some settings need; they are looked for before any work begins."""

import contextlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from export.files import TuneportError
from finetune.config import FinetuneConfig

REMEDIES = {
    "adapters": "pip install 'tuneport[adapters]'",
    "tensorboard": "pip install tensorboard",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
}
"""Package → how to come by it."""
SETUPS = {
    "wandb": "run `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a store that it takes, such as sqlite:///mlflow.db",
}
"""Package → what it needs before it can watch a run."""


def packages_of(config: FinetuneConfig) -> dict[str, str]:
    """Return the packages that the settings ask for, each with the setting that does."""
    watching: dict[str, str] = {name: f"report_to = {name}" for name in config.report_to}
    return {"adapters": "strategy = adapter", **watching} if config.strategy == "adapter" else watching


def check_installed(needed: dict[str, str]) -> None:
    """Raise a TuneportError for a package that is not there; `needed` is package → what needs it."""
    for package, reason in needed.items():
        try:
            version(package)
        except PackageNotFoundError as error:
            problem = f"{reason} needs the package {package}, which is not installed"
            raise TuneportError(problem, REMEDIES[package]) from error


@contextlib.contextmanager
def watchers_fail_clearly(config: FinetuneConfig) -> Iterator[None]:
    """Turn what Weights & Biases or MLflow raises, when training begins, into a TuneportError with the remedy."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in SETUPS or package not in config.report_to:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TuneportError(f"{package} cannot watch the run ({reason})", SETUPS[package]) from error
