"""``python -m rag.adapters.ledger``: migrate the database of the settings."""

from rag.adapters.ledger.schema import migrate
from rag.settings import load

migrate(load().database_url.get_secret_value())
