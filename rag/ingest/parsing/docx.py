"""Word documents, through unstructured."""

from __future__ import annotations

import io
import zipfile

from rag.errors import Rejected
from rag.ingest.parsing.elements import assemble
from rag.ingest.parsing.partitioned import elements_of, partition_docx
from rag.ingest.parsing.sniffing import DOCX
from rag.models import ParsedDocument

_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_LARGEST_PROPERTIES = 1_000_000  # bytes


def parse(content: bytes, name: str) -> ParsedDocument:
    try:
        elements = partition_docx(io.BytesIO(content))
        title = _title(content)
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # python-docx, lxml and zipfile raise many types for a damaged file
        raise Rejected(
            f"{name!r} is damaged and cannot be read as docx ({type(error).__name__}): save it again from Word",
            reason="corrupt",
        ) from error
    return assemble(elements_of(elements), name=name, media_type=DOCX, title=title)


def _title(content: bytes) -> str:
    from lxml import etree

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if "docProps/core.xml" not in archive.namelist():
            return ""
        with archive.open("docProps/core.xml") as member:
            properties = member.read(_LARGEST_PROPERTIES)
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    return etree.fromstring(properties, parser).findtext(_TITLE) or ""
