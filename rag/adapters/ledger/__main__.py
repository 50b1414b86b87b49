"""``python -m rag.adapters.ledger``: migrate the database that the settings name."""

from rag.adapters.ledger.schema import migrate
from rag.settings import load

migrate(load().database_url.get_secret_value())
