"""What every test gets: one torch thread, a cache folder of its own. `shared(name)` finds data outside the repo."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def shared(name: str) -> Path:
    """The path of a file in the workplace's data folder; the test is skipped where it is not there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not part of this repository")
    return path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are slower on many threads, and results are then equal on every machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$OPSIN_CACHE, an empty folder for each test: none reads or writes the user's."""
    folder = tmp_path_factory.mktemp("opsin-cache")
    monkeypatch.setenv("OPSIN_CACHE", str(folder))
    return folder
