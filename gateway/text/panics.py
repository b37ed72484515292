"""Turns Rust panics into ordinary exceptions. PyO3 raises a BaseException, which `except Exception` does not catch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def panics_as(error: Callable[[str], Exception]) -> Iterator[None]:
    """Raise `error(message)` instead of a panic. Context manager and decorator."""
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # from pyo3_runtime, which cannot be imported
            raise
        raise error(str(exc)) from None
