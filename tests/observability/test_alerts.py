import re
import subprocess
from pathlib import Path

from tests.observability.conftest import Tools

RULES = Path("observability/alerts.yml")
CASES = Path("tests/observability/alerts.yml")


def promtool(tools: Tools, *arguments: str) -> str:
    done = subprocess.run([tools.promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_configuration_is_sound(tools: Tools) -> None:
    assert "SUCCESS" in promtool(tools, "check", "config", "observability/prometheus.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise(tools: Tools) -> None:
    assert "SUCCESS" in promtool(tools, "test", "rules", str(CASES))


def test_every_alert_is_tested_when_all_is_well_and_when_it_is_not() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert sorted(re.findall(r"alertname: (\w+)", CASES.read_text())) == sorted(2 * alerts)
