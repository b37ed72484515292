import json
import subprocess
import sys

from gateway.telemetry.logs import MAX_CHARACTERS

SAY = f"""
import logging
from gateway.telemetry import logs
logs.configure()
for name in ("gateway.request", "uvicorn.error", "httpx2", "httpcore2.connection", "asyncio", "urllib3", "PIL", ""):
    logging.getLogger(name).debug("of %s", name)
    logging.getLogger(name).info("of %s", name)
    logging.getLogger(name).warning("of %s", name)
try:
    raise ValueError("long" * {MAX_CHARACTERS})
except ValueError:
    logging.getLogger("gateway.routes").exception("long" * {MAX_CHARACTERS})
"""


def said() -> list[dict[str, str]]:
    done = subprocess.run([sys.executable, "-c", SAY], capture_output=True, check=True, text=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_only_the_gateways_lines_are_logged_at_level_info() -> None:
    levels: dict[str, list[str]] = {}
    for line in said()[:-1]:
        levels.setdefault(line["logger"], []).append(line["level"])
    chatty = {"gateway.request": ["info", "warning"], "uvicorn.error": ["info", "warning"]}
    assert levels == chatty | {
        name: ["warning"] for name in ("httpx2", "httpcore2.connection", "asyncio", "urllib3", "PIL", "root")
    }


def test_line_is_bounded() -> None:
    last = said()[-1]
    assert (len(last["message"]), len(last["trace"])) == (MAX_CHARACTERS, MAX_CHARACTERS)
    assert "<string>" in last["trace"]
