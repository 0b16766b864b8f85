from pathlib import Path

import pytest
from kit.versions import Repository, make_repository


@pytest.fixture(scope="session")
def repository(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A model repository of the tiny model."""
    return make_repository(tmp_path_factory.mktemp("repository"), tiny_artifact)
