"""`tuneport serve`, with the engine of `paced_engine`: the supervisor's arguments."""

from tuneport.stages.serve.supervisor import main

if __name__ == "__main__":
    main(engine_module="tuneport.stages.benchmarks.shared_engine.paced_engine")
