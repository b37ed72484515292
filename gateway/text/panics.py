"""Panics of Rust as ordinary errors: PyO3 raises a BaseException, which passes whatever catches an Exception."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def panics_as(error: Callable[[str], Exception]) -> Iterator[None]:
    """Raise an error of the caller's in place of a panic, made from what the panic says. A decorator, too."""
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # pyo3_runtime's, which cannot be imported
            raise
        raise error(str(exc)) from None
