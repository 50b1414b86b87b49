"""Figures as people read them: tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from evals.quality import CUTS, Quality, Ranking


def quality(found: Quality, plain: Ranking, console: Console) -> None:
    """What was found beside plain BM25, then what was answered."""
    console.print(retrieval(f"{found.dataset}: {found.answerable} answerable questions", found.retrieval, plain))
    if found.unindexed:
        console.print(
            f"[yellow]{len(found.unindexed)} gold documents are not in the index; questions about them count as misses:[/yellow] "
            + ", ".join(found.unindexed[:3])
        )
    if found.lost:
        console.print(f"abstained, answerable      {found.lost}   n {found.lost.n}   (lower is better)")
    if found.refused:
        console.print(f"abstained, unanswerable    {found.refused}   n {found.refused.n}   (higher is better)")
    if found.citations:
        console.print(
            f"citations                  {found.citations.aligned:.4f} word for word in the parsed source (ragas), "
            f"{found.citations.at_span:.4f} exactly at their span   n {found.citations.n}",
            soft_wrap=True,
        )


def retrieval(title: str, hybrid: Ranking, plain: Ranking) -> Table:
    table = Table(title=f"{title}; mean and 95% bootstrap interval", title_justify="left")
    for column in ("", *(f"Recall@{cut}" for cut in CUTS), "MRR", f"nDCG@{CUTS[-1]}"):
        table.add_column(column)
    for name, each in (("Tidemark", hybrid), ("BM25, whole documents", plain)):
        table.add_row(name, *(str(each.recall[cut]) for cut in CUTS), str(each.mrr), str(each.ndcg))
    return table
