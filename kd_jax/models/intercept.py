"""What runs round the calls of modules: the one mechanism, for Linen and NNX, under LoRA, rounding, remat and taps.

An interceptor `fn(layer, /, *args, **kwargs)` stands in for the `__call__` of every module that runs inside
`with intercepted(fn):`; it goes on by `layer.call(*args, **kwargs)`. It works through any wrapper of a model, since
the adapter that runs the network asks for the interceptors that are open. Linen offers this itself
(`nn.intercept_methods`); an NNX module gets a subclass, on the copy that one apply makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from kd_jax.types import Array

Interceptor = Callable[..., Any]

_open: ContextVar[tuple[Interceptor, ...]] = ContextVar("open interceptors", default=())
_run_again: ContextVar[str | None] = ContextVar("path of the module that remat calls a second time", default=None)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module whose `__call__` is about to run; `path` is "block1/dense", or "" for the network itself.

    `call(*args, **kwargs)` runs what is left of the call: the interceptors that were opened later, then the module.
    """

    path: str
    module: nn.Module | nnx.Module
    call: Callable[..., Any]

    def parameter(self, name: str) -> Array | None:
        """Returns the module's own parameter of this name, sliced where the module is scanned; None if it has none."""
        if isinstance(self.module, nn.Module):
            return self.module.get_variable("params", name)
        value = getattr(self.module, name, None)
        return value.get_value() if isinstance(value, nnx.Param) else None


def first_input(layer: Layer, args: tuple[Any, ...]) -> Array:
    """Returns what the layer reads; ValueError where it is called by keywords alone."""
    if not args:
        raise ValueError(f"the layer {layer.path!r} is called by keywords alone: give its input first, by position")
    return args[0]


@contextlib.contextmanager
def intercepted(interceptor: Interceptor) -> Generator[None]:
    """Runs `interceptor(layer, *args, **kwargs)` for each call of a module inside; what is opened last is innermost."""

    def linen(call: Any, args: tuple, kwargs: Mapping[str, Any], context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return call(*args, **kwargs)
        return interceptor(Layer("/".join(module.path), module, call), *args, **kwargs)

    token = _open.set((*_open.get(), interceptor))
    try:
        with nn.intercept_methods(linen):
            yield
    finally:
        _open.reset(token)


def checkpointed(layer: Layer, policy: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Returns what the layer returns; of its inside, the backward pass keeps what `policy` saves and computes the rest.

    Linen's or NNX's own remat calls the module anew, and carries its variables in and out.
    """
    arrays = [i for i, x in enumerate(args) if isinstance(x, jax.Array)]  # flags such as `train` stay Python values

    def again(module: nn.Module | nnx.Module, *values: Array) -> Any:
        by_position = dict(zip(arrays, values, strict=True))
        token = _run_again.set(layer.path)
        try:
            return module(*(by_position.get(i, x) for i, x in enumerate(args)), **kwargs)
        finally:
            _run_again.reset(token)

    remat = nn.remat if isinstance(layer.module, nn.Module) else nnx.remat
    return remat(again, policy=policy)(layer.module, *(args[i] for i in arrays))


def runs_again(path: str) -> bool:
    """Returns whether this call of the module at `path` is the one inside of its own remat, which no tap records."""
    return _run_again.get() == path


def intercept_calls(module: nnx.Module, tapped: Callable[[str], bool]) -> None:
    """Makes the calls of all modules in `module` run the open interceptors, and sow the results of the tapped paths.

    Exchanges the classes of its modules, so `module` must be a copy that only the caller holds. Why not
    nnx.capture(method_outputs=...): it records every method of every module, patches the user's classes meanwhile, and
    misses a `__call__` that is inherited.
    """
    for parts, child in nnx.iter_modules(module):
        path = "/".join(map(str, parts))
        if callable(child) and (_open.get() or tapped(path)):
            object.__setattr__(child, "__class__", _intercepting(type(child), path, tapped(path)))


@functools.cache  # one class for one module: what nnx.jit compiled for a class may be used again
def _intercepting(cls: type[nnx.Module], path: str, tapped: bool) -> type[nnx.Module]:
    class Intercepting(cls):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            call = super().__call__
            for interceptor in reversed(_open.get()):
                call = functools.partial(interceptor, Layer(path, self, call))
            result = call(*args, **kwargs)
            if tapped and not runs_again(path):
                self.sow(nnx.Intermediate, "__call__", result)
            return result

    Intercepting.__name__, Intercepting.__qualname__ = cls.__name__, cls.__qualname__
    return Intercepting
