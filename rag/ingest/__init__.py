"""Ingestion: from a change event to a document in the index."""
