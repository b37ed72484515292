from gateway import errors
from gateway.errors import ERROR_SPECS, MAX_QUOTED, GatewayError, quoted


def subclasses(error: type[GatewayError]) -> set[type[GatewayError]]:
    return {deep for child in error.__subclasses__() for deep in {child} | subclasses(child)}


def test_every_error_has_a_status() -> None:
    assert subclasses(GatewayError) == set(ERROR_SPECS)


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    assert all(error.__name__ in errors.__doc__ for error in ERROR_SPECS)


def test_server_errors_are_5xx() -> None:
    blamed = {answer.status // 100 for answer in ERROR_SPECS.values() if answer.type == "server_error"}
    assert blamed == {5}


def test_quoted_values_are_truncated() -> None:
    assert quoted("a'\x7f") == repr("a'\x7f")
    assert quoted("b" * MAX_QUOTED) == repr("b" * MAX_QUOTED)
    assert quoted("b" * (MAX_QUOTED + 1)) == repr("b" * MAX_QUOTED) + "..."
