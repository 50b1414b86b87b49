from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from schemas.clients import ClientOptions, client_options


def test_one_file_serves_both_clients_and_shows_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text(
        "# MSK\n\nsecurity.protocol=SASL_SSL\nsasl.mechanism = SCRAM-SHA-512\nsasl.username=tidemark\nsasl.password=a=b\n"
        "schema.registry.basic.auth.user.info=tidemark:hush\nschema.registry.max.retries=0\n"
    )
    options = client_options(path)
    assert options.kafka == {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "tidemark", "sasl.password": "a=b",
    }  # fmt: skip
    assert options.registry == {"basic.auth.user.info": "tidemark:hush", "max.retries": 0}
    assert "hush" not in repr(options)
    AdminClient({**options.kafka, "bootstrap.servers": "127.0.0.1:1", "log_level": 0})  # librdkafka takes them


def test_without_a_file_there_are_no_options() -> None:
    assert client_options(None) == ClientOptions()


def test_an_unreadable_file_is_reported_without_its_content(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        client_options(tmp_path / "absent.properties")
    path = tmp_path / "client.properties"
    path.write_text("security.protocol=SSL\nhush\n")
    with pytest.raises(ValueError, match="line 2") as caught:
        client_options(path)
    assert "hush" not in str(caught.value)
