"""The same network from new random values: what a chain would have reached without the teacher's weights."""

from __future__ import annotations

from kd_jax.compress.plan import Network, Smaller


def anew(network: Network) -> Smaller:
    """Returns the network with new values from the run's seed, so that only what learns after it fills them."""
    return Smaller(network.model, None, "new random weights")
