"""kd_jax: knowledge distillation in JAX."""
