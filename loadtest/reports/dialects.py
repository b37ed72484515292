"""`python -m loadtest.reports.dialects`: writes what each dialect supports into docs/api.md."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from gateway.routes.decoding import Refused
from gateway.routes.operation import Dialect, Operation
from gateway.routes.table import DIALECTS, DOCUMENTED
from loadtest.reports import page

PAGE = Path("docs/api.md")


def main() -> int:
    """Write."""
    page.fill(PAGE, {"dialects": section()})
    return 0


def section() -> str:
    """What each dialect supports and refuses."""
    known: dict[type[Struct], str] = {}
    return "\n".join(part for dialect in DIALECTS for part in _describe(dialect, known))


def _describe(dialect: Dialect, known: dict[type[Struct], str]) -> Iterator[str]:
    """A dialect, and its requests as far as they are not known by their first operation."""
    yield f"### {dialect.name}\n"
    told = {operation.path for operation, _ in DOCUMENTED}
    paths: dict[type[Struct] | None, list[str]] = {}
    for operation in dialect.operations:
        if operation.path in told:
            paths.setdefault(operation.request, []).append(_name(operation))
    for request, names in paths.items():
        if request is None:
            yield f"- {', '.join(names)}"
        elif request in known:
            yield f"- {', '.join(names)}: as {known[request]}"
        else:
            known[request] = names[0]
            yield f"- {', '.join(names)}: {_fields(request)}"
            yield from _exceptions(request)
    if dialect.shared:
        yield f"- also {', '.join(f'`{path}`' for path in dialect.shared)}, which another dialect lists"
    yield ""


def _name(operation: Operation) -> str:
    return f"`{operation.method.upper()} {operation.path}`"


def _fields(request: type[Struct]) -> str:
    """The fields that are supported, required ones in bold."""
    aliases = _aliases(request)
    return ", ".join(
        f"**`{field.encode_name}`**" if field.required else f"`{field.encode_name}`"
        for field in fields(request)
        if field.encode_name not in aliases
    )


def _exceptions(request: type[Struct]) -> Iterator[str]:
    """Other names of fields, and those that are refused."""
    if aliases := _aliases(request):
        yield "  - other names: " + ", ".join(f"`{alias}` of `{name}`" for alias, name in aliases.items())
    refused: Mapping[str, Refused] = getattr(request, "refused", {})
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, why in refused.items():
        told = () if why.harmless == (False,) else why.harmless
        harmless = ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in told)
        reasons.setdefault((harmless, why.reason), []).append(f"`{name}`")
    for (harmless, reason), names in reasons.items():
        yield f"  - refused: {', '.join(names)}{f' other than {harmless}' if harmless else ''}: {reason}"


def _aliases(request: type[Struct]) -> Mapping[str, str]:
    aliases: Mapping[str, str] = getattr(request, "aliases", {})
    return aliases


if __name__ == "__main__":
    sys.exit(main())
