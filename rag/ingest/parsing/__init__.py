"""Bytes to text with structure. Add a new format to ``formats.PARSERS``.

``parse`` is pure and has no limits of its own, so the pipeline parses through ``SandboxedParser``.
"""

from rag.ingest.parsing.formats import PARSERS, VERSION, parse
from rag.ingest.parsing.sandbox import ParseLimits, SandboxedParser

__all__ = ["PARSERS", "VERSION", "ParseLimits", "SandboxedParser", "parse"]
