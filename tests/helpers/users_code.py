"""What a user wrote beside kd_jax, with the mistakes that tests/mistakes makes in it."""

from mistakes import MLP


def net(**options):
    return MLP(**options)


def sized(width, depth):
    return MLP(width * depth)


def no_splits(fields):
    return fields["name"]


def confused(student_logits, teacher_logits, **options):
    return student_logits["answer"]
