"""The contracts on disk: run.json and manifest.json."""
