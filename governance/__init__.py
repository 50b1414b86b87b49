"""The rules for documents and callers: admission to the index, and access to its documents."""
