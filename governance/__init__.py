"""The gates: what may come in (admission), who may see it (access)."""
