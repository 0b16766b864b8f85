"""Draw the trials of a search."""

from pathlib import Path

import matplotlib
import optuna

matplotlib.use("agg")
from matplotlib import pyplot


def draw_trials(file: Path, trials: list[optuna.trial.FrozenTrial], metric: str) -> None:
    """Draw the metric over every setting that was varied, in a panel each; those that diverged as crosses."""
    names = sorted({name for trial in trials for name in trial.params})
    done, diverged = ([t for t in trials if (t.value is None) == is_without] for is_without in (False, True))
    worst = min(trial.value for trial in done if trial.value is not None)
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.4 * len(names), 3), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        numeric = all(isinstance(trial.params[name], int | float) for trial in trials)
        shown = {t.number: t.params[name] if numeric else str(t.params[name]) for t in trials}
        axis.scatter(
            [shown[t.number] for t in done], [t.value for t in done], c=range(len(done)), cmap="viridis_r", s=24
        )
        if diverged:
            axis.scatter(
                [shown[t.number] for t in diverged], [worst] * len(diverged), c="tab:red", marker="x", label="diverged"
            )
            axis.legend(frameon=False, fontsize=8)
        axis.set(xlabel=name, ylabel=metric)
        distribution = trials[0].distributions[name]
        if getattr(distribution, "log", False):
            axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
