"""`tuneport demo`."""

from pathlib import Path

from tuneport.cli.options import Out, Overwrite
from tuneport.extras import require_extras


def demo(out: Out = Path("demo"), overwrite: Overwrite = False) -> None:
    """Run the whole chain on an embedded model and data set, in a few minutes on two cores.

    Example: tuneport demo --out demo
    """
    require_extras("the demo", "demo", "export", "train")
    from tuneport.cli.demo_chain import run_demo

    run_demo(out, overwrite=overwrite)
