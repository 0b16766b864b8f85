"""The engine process of `kit.hanging_service`."""

from tuneport.stages.serve.shared_engine.process import main

from .hanging_service import hang_when_told

if __name__ == "__main__":
    hang_when_told()
    main()
