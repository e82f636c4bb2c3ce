"""A few seconds of what `make soak` does for ten minutes; memory first fills, then stays."""

import pytest

from qlora_kit.models import bundled_gguf
from tests.tools.gguf_files import write_adapter
from tests.tools.soak import soak


@pytest.mark.slow
def test_the_server_holds_eight_clients_and_those_who_mean_no_good(tmp_path):
    adapters = {"keeper": write_adapter(tmp_path / "keeper.gguf", strength=0.05)}
    found = soak(bundled_gguf(), adapters, seconds=10, questions=8, growth=0.5)
    assert found.problems == ()
    assert found.load.failed == 0
    assert found.load.requests >= 8
    assert found.same > 0.5
