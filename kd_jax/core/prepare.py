"""From a raw batch to the batch that the networks see, as a config describes it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from kd_jax import prng
from kd_jax.core.paths import Path
from kd_jax.core.role_preparation import RolePreparation
from kd_jax.data import augment
from kd_jax.data.moved_boxes import holds_objects
from kd_jax.data.source import Source
from kd_jax.resolve import check_kwargs, resolve
from kd_jax.types import Array

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Preparation:
    """(batch, key, train) -> the batch that the networks see: normalised pictures, further views of them, a target.

    `target` is the label, or [B, classes] probabilities after mixup or cutmix. `augmentations` has those of the image
    and of every further view by the entry of the batch; examples that are no pictures stay as they are. `roles` see
    pictures in a form of their own, each an entry "<role>:<entry>": made of the same crop as it is stored, and where
    cutout, erasing or mixing act, which know normalised pictures alone, of what they made, turned back. `more`, a
    function (batch, train) -> entries, is the user's own, whose entries are added last; one that takes `key` too draws
    from it.
    """

    augmentations: Mapping[str, tuple[str, ...]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    pictures: bool = True
    more: Callable[..., Batch] | None = None
    roles: tuple[RolePreparation, ...] = ()

    def __call__(self, batch: Batch, key: Array, train: bool) -> Batch:
        ops, further = self.augmentations["image"], {k: v for k, v in self.augmentations.items() if k != "image"}
        view_of = functools.partial(augment.pictures, train=train, mean=self.mean, std=self.std)
        entries, stored = view_of(batch, key, augment=ops) if self.pictures else (dict(batch), None)
        entries |= self._as_roles_see("image", batch, entries["image"], stored) if self.roles else {}
        entries["target"] = entries["label"]
        if "mix_label" in entries:
            if further:
                raise ValueError(f"mixup and cutmix show two images at once, and {sorted(further)} would show one.")
            one, other = (jax.nn.one_hot(entries[k], self.classes) for k in ("label", "mix_label"))
            weight = entries["mix_weight"][:, None]
            entries["target"] = weight * one + (1 - weight) * other
        for name, ops_of_view in further.items():
            view, stored = view_of(batch, prng.stream(key, name, 0), augment=ops_of_view)
            entries[name] = view["image"]
            entries |= self._as_roles_see(name, batch, view["image"], stored)
        return entries if self.more is None else {**entries, **self._more_of(entries, key, train)}

    def _more_of(self, entries: Batch, key: Array, train: bool) -> Batch:
        assert self.more is not None
        draws = "key" in inspect.signature(self.more).parameters
        return self.more(entries, train, key=key) if draws else self.more(entries, train)

    def _as_roles_see(self, name: str, batch: Batch, image: Array, stored: Array | None) -> dict[str, Array]:
        """The picture `name` as each of the roles that reads it sees it."""
        if stored is None:
            stored = augment.as_stored(image, self.mean, self.std, batch["image"].dtype)
        return {role.entry(name): role(stored) for role in self.roles if name in role.entries}

    def augmentations_at(self, path: str) -> tuple[str, ...]:
        """Returns the augmentations of the entry at a path of the prepared batch, () where it is as stored."""
        where = Path.parse(path)
        views = {role.entry(entry): entry for role in self.roles for entry in role.entries}
        return self.augmentations.get(views.get(where.owner, where.owner), ()) if where.kind == "batch" else ()


def preparation_of(
    train: Mapping[str, Any],
    source: Source,
    more: Mapping[str, Any] | None = None,
    roles: tuple[RolePreparation, ...] = (),
) -> Preparation:
    """Returns the preparation of config.train for a source, with the function that `more`, {name, kwargs}, names.

    `roles` are those that see pictures in a form of their own.

    Raises ValueError where examples that are no images are to be augmented, where masks would stay behind, and for
    arguments that `more` has not, or numbers that are out of its range.
    """
    ops, views = tuple(train["augment"]), {name: tuple(ops) for name, ops in train["views"].items()}
    pictures = source.entry == "image"
    if not pictures and (ops or views):
        raise ValueError(
            f"{source.name} has {source.entry}, and augmentations and views are of images: {[*ops, *views]}. "
            "config.prepare names a function of your own."
        )
    ops_of_all = [*ops, *(op for view in views.values() for op in view)]
    if holds_objects(source.labels):
        _check_moves(ops_of_all, source, "boxes", "data.moved_boxes.moved")
    if source.per_pixel:
        _check_moves(ops_of_all, source, "masks", "data.moved_masks.moved")
    adds = None
    if more and more["name"]:
        fn, kwargs = resolve(more["name"]), dict(more["kwargs"])
        check_kwargs(more["name"], fn, kwargs, field="config.prepare.kwargs")
        adds = functools.partial(fn, **kwargs)
    return Preparation({"image": ops, **views}, source.mean, source.std, source.num_classes, pictures, adds, roles)


def _check_moves(ops: Sequence[augment.Op], source: Source, labels: str, moved: str) -> None:
    """Raises ValueError for augmentations that move or mix the picture, whose labels would stay where they are."""
    names = [op if isinstance(op, str) else op["name"] for op in ops]
    places = augment.IMAGE_OPS | augment.BATCH_OPS
    if moving := [name for name in names if name in places or name.startswith("kd_jax.data.crops:")]:
        raise ValueError(
            f"The labels of {source.name} are {labels}, and config.train.augment's {moving[0]} changes the picture "
            f"alone: config.prepare.name={moved} moves both."
        )
