"""The loading of a corpus: documents into the bucket, rows into the warehouse. Repeating it changes nothing."""

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

from rag.ids import object_name

DOCUMENTS = Path(__file__).resolve().parents[3] / "evals" / "datasets" / "sample" / "documents"
TABLES = DOCUMENTS.parent / "tables"

# Tables of the warehouse, as SNOWFLAKE_TABLES of the stack maps them; the columns are those of the CSV files.
MAPPED = ("CUSTOMERS", "TICKETS")


@dataclass(frozen=True, slots=True)
class Load:
    """The outcome of a load: how many of its objects were written, and the keys of all, those that were there included."""

    written: int
    keys: tuple[str, ...]

    @property
    def found(self) -> int:
        return len(self.keys)


def put_documents(s3: Any, bucket: str, folder: Path) -> Load:
    """Put every file of ``folder`` under its relative path, except hidden ones and those that the bucket already has unchanged."""
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
        return Load(sum(pool.map(put, files)), keys)


def create_tables(connect: Any) -> None:
    """Create the tables that are missing, empty, with the columns of the CSV files."""
    with closing(connect()) as connection:
        cursor = connection.cursor()
        for table, columns, _ in _tables():
            typed = ", ".join(f"{name} {'timestamp_tz' if name == 'UPDATED_AT' else 'varchar'}" for name in columns)
            cursor.execute(f"create table if not exists {table} ({typed})")


def put_rows(connect: Any) -> Load:
    """Insert the rows of the CSV files, except those whose key the warehouse has. Keys are those of the rows' objects."""
    written, keys = 0, []
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
            written += len(due)
            keys += [f"{table.lower()}/{object_name(row['ID'])}.json" for row in rows]
    return Load(written, tuple(keys))


def _tables() -> Iterator[tuple[str, list[str], list[dict[str, str]]]]:
    for table in MAPPED:
        with (TABLES / f"{table.lower()}.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [{str(name).upper(): value for name, value in row.items()} for row in reader]
            yield table, [name.upper() for name in reader.fieldnames or ()], rows


def _listing(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        yield from page.get("Contents", [])
