"""`tuneport build`."""

from tuneport.cli.options import Artifact


def build(artifact: Artifact) -> None:
    """Register an artifact with BentoML and build the bento that serves it."""
    from tuneport.stages.serve.bento import build as run_build

    bento = run_build(artifact)
    print(f"built {bento.tag}; next: bentoml serve {bento.tag}, or bentoml containerize {bento.tag}")
