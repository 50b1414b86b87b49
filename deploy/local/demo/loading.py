"""The sample corpus on its way in: documents into the bucket, tables into the warehouse. Repeating it changes nothing."""

from __future__ import annotations

import csv
import hashlib
import mimetypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENTS = Path(__file__).resolve().parents[3] / "evals" / "datasets" / "sample" / "documents"
TABLES = DOCUMENTS.parent / "tables"

# Tables of the warehouse, as SNOWFLAKE_TABLES of the stack maps them; the columns are those of the CSV files.
MAPPED = ("CUSTOMERS", "TICKETS")


@dataclass(frozen=True, slots=True)
class Put:
    """What a load did: ``written`` of ``found``; ``keys`` of the objects, those that were there included."""

    found: int
    written: int
    keys: tuple[str, ...] = ()


def put_documents(s3: Any, bucket: str, folder: Path) -> Put:
    """Every file of ``folder`` under its relative path, hidden ones left out; what the bucket already has as it is, is left alone."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    present = {entry["Key"]: entry["ETag"].strip('"') for entry in _listing(s3, bucket)}

    def put(path: Path) -> bool:
        key, content = path.relative_to(folder).as_posix(), path.read_bytes()
        if present.get(key) == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return False
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=media_type)
        return True

    with ThreadPoolExecutor(4) as pool:
        keys = tuple(path.relative_to(folder).as_posix() for path in files)
        return Put(len(files), sum(pool.map(put, files)), keys)


def create_tables(connect: Any) -> None:
    """Empty tables with the columns of the CSV files, when they are missing."""
    with closing(connect()) as connection:
        cursor = connection.cursor()
        for table, columns, _ in _tables():
            typed = ", ".join(f"{name} {'timestamp_tz' if name == 'UPDATED_AT' else 'varchar'}" for name in columns)
            cursor.execute(f"create table if not exists {table} ({typed})")


def put_rows(connect: Any) -> Put:
    """The rows of the CSV files; a row whose key the warehouse has is left alone."""
    found = written = 0
    with closing(connect()) as connection:
        cursor = connection.cursor()
        for table, columns, rows in _tables():
            present = {key for (key,) in cursor.execute(f"select id from {table}").fetchall()}  # noqa: S608
            due = [row for row in rows if row["ID"] not in present]
            marks = ", ".join(["%s"] * len(columns))
            if due:
                cursor.executemany(
                    f"insert into {table} ({', '.join(columns)}) values ({marks})",  # noqa: S608
                    [tuple(row[name] for name in columns) for row in due],
                )
            found, written = found + len(rows), written + len(due)
    return Put(found, written)


def _tables() -> Iterator[tuple[str, list[str], list[dict[str, str]]]]:
    for table in MAPPED:
        with (TABLES / f"{table.lower()}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [{str(name).upper(): value for name, value in row.items()} for row in reader]
            yield table, [name.upper() for name in reader.fieldnames or ()], rows


def _listing(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        yield from page.get("Contents", [])
