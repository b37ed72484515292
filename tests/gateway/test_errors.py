from gateway import errors
from gateway.errors import ANSWERS, MAX_QUOTED, GatewayError, quoted


def subclasses(error: type[GatewayError]) -> set[type[GatewayError]]:
    return {deep for child in error.__subclasses__() for deep in {child} | subclasses(child)}


def test_every_error_has_a_status() -> None:
    assert subclasses(GatewayError) == set(ANSWERS)


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    assert all(error.__name__ in errors.__doc__ for error in ANSWERS)


def test_clients_are_blamed_for_their_errors_only() -> None:
    blamed = {answer.status // 100 for answer in ANSWERS.values() if answer.type == "server_error"}
    assert blamed == {5}


def test_no_more_of_a_value_is_quoted_than_can_be_read() -> None:
    assert quoted("a'\x7f") == repr("a'\x7f")
    assert quoted("b" * MAX_QUOTED) == repr("b" * MAX_QUOTED)
    assert quoted("b" * (MAX_QUOTED + 1)) == repr("b" * MAX_QUOTED) + "..."
