"""What a file in configs/ needs: fields with their defaults, knowledge as terms, and the words behind the colon."""

from kd_jax.config.fields import base, role, small_digits, teacher_fields, training
from kd_jax.config.images import on_images
from kd_jax.config.knowledge import compose, scheme_of, with_four_stages
from kd_jax.config.presets import PRESETS
from kd_jax.config.terms import Terms, features, kd_term, part, response, supervised, term
from kd_jax.config.variants import Variant, finish, make_tiny, parse

__all__ = [
    "PRESETS",
    "Terms",
    "Variant",
    "base",
    "compose",
    "features",
    "finish",
    "kd_term",
    "make_tiny",
    "on_images",
    "parse",
    "part",
    "response",
    "role",
    "scheme_of",
    "small_digits",
    "supervised",
    "teacher_fields",
    "term",
    "training",
    "with_four_stages",
]
