from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmmagic import Session


@pytest.fixture
def session() -> Iterator[Session]:
    """A session with the tiny model."""
    made = Session()
    made.load("tiny-random").wait()
    yield made
    made.close()
