"""Packages that only some settings need; they are looked for before any work begins."""

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
