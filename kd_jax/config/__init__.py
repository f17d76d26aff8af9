"""What a file in configs/ needs: fields with their defaults, knowledge as terms, and the words behind the colon."""

from kd_jax.config.fields import Variant, base, make_tiny, parse, role, small_digits, teacher_fields, training
from kd_jax.config.knowledge import compose, scheme_of, with_four_stages
from kd_jax.config.presets import PRESETS, Terms, features, logits, part, supervised, term

__all__ = [
    "PRESETS",
    "Terms",
    "Variant",
    "base",
    "compose",
    "features",
    "logits",
    "make_tiny",
    "parse",
    "part",
    "role",
    "scheme_of",
    "small_digits",
    "supervised",
    "teacher_fields",
    "term",
    "training",
    "with_four_stages",
]
