"""What is compiled when the package is installed."""

from __future__ import annotations

import sys

import pytest
import tiny


@pytest.mark.slow
def test_what_is_compiled_at_installation_is_all_that_capturing_and_matching_compile(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "compiled")}

    def compiled() -> set[str]:
        return {file.name for file in tmp_path.rglob("compiled/**/*.nbc")}

    command = [sys.executable, "-m", "universal_neurons.commands.compile"]
    done = tiny.run(tmp_path, command, real=True, **cache)
    assert done.returncode == 0, done.stdout
    ahead = compiled()
    assert len(ahead) > 5
    tiny.make(tmp_path, shards=2)
    tiny.finish(tmp_path, "--until", "permuted", "match", real=True, **cache)
    assert compiled() == ahead
