"""Bytes to text with structure. ``formats.PARSERS`` is where a new format is added.

``parse`` is pure and knows no bounds of its own: the pipeline parses through ``SandboxedParser``.
"""

from rag.ingest.parsing.formats import PARSERS, VERSION, parse
from rag.ingest.parsing.sandbox import ParseLimits, SandboxedParser

__all__ = ["PARSERS", "VERSION", "ParseLimits", "SandboxedParser", "parse"]
