"""The energy proxy by hand."""

import pytest

from kd_jax.measure.energy import energy


def test_by_hand():
    # 1e6 FLOPs at 2 pJ and 1e5 bytes at 100 pJ: 2 and 10 microjoules
    proxy = energy({"flops": 1e6, "bytes_accessed": 1e5}, 2e-12, 100e-12)
    assert proxy["microjoules"] == pytest.approx(12)
    assert energy({"flops": None, "bytes_accessed": 1e5}, 1.0, 1.0) == {"microjoules": None}
