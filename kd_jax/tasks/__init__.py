"""What is learned and how it is scored: one file a task, each with a function `task` that makes a kd_jax.types.Task."""
