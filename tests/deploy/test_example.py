from __future__ import annotations

from deploy.local.example import example
from deploy.local.stack import PORTS, ROOT, parse
from rag.settings import Settings


def test_the_committed_example_matches_the_settings_and_the_ports() -> None:
    assert (ROOT / ".env.example").read_text() == example()


def test_each_setting_and_each_port_is_named_with_its_default() -> None:
    named = parse("\n".join(line.removeprefix("# ") for line in example().splitlines() if "=" in line))
    assert {name.upper() for name in Settings.model_fields} <= named.keys()
    assert {name: named[f"TIDEMARK_PORT_{name.upper()}"] for name in PORTS} == {
        name: str(port) for name, port in PORTS.items()
    }
