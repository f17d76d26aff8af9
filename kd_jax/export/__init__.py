"""Networks out of the house: one file a format, a parity gate, latency, and `python -m kd_jax.export`.

A format is a module with FORMAT, `write(model, params, stats, inputs, folder) -> file`, and `read(file) -> function`
that runs the file in the runtime of its format: NumPy arrays in, a list of NumPy arrays out.
"""
