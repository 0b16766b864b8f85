"""Packages that only some settings need, checked before any work."""

import contextlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from tuneport.errors import TuneportError

from .config import FinetuneConfig

INSTALLATION = {
    "adapters": "pip install 'tuneport[adapters]'",
    "tensorboard": "pip install tensorboard",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
}
"""Package → how to install it."""
TRACKER_SETUP = {
    "wandb": "run `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to a store that it takes, such as sqlite:///mlflow.db",
}
"""Experiment tracker → what it needs before it can log a run."""


def required_packages(config: FinetuneConfig) -> dict[str, str]:
    """Return the optional packages that the settings need, each with the setting that needs it."""
    trackers: dict[str, str] = {name: f"report_to = {name}" for name in config.report_to}
    return {"adapters": "strategy = adapter", **trackers} if config.strategy == "adapter" else trackers


def check_installed(required: dict[str, str]) -> None:
    """Raise a TuneportError for a package that is not installed; `required` maps packages to what needs them."""
    for package, reason in required.items():
        try:
            version(package)
        except PackageNotFoundError as error:
            problem = f"{reason} needs the package {package}, which is not installed"
            raise TuneportError(problem, INSTALLATION[package]) from error


@contextlib.contextmanager
def as_tracker_error(config: FinetuneConfig) -> Iterator[None]:
    """Turn exceptions of Weights & Biases and MLflow, raised when training begins, into a TuneportError."""
    try:
        yield
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in TRACKER_SETUP or package not in config.report_to:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TuneportError(f"{package} cannot track the run ({reason})", TRACKER_SETUP[package]) from error
