"""An upload to the hub, for a person and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from fewbits.reporting import figures
from fewbits.reporting.record import Pushed, PushPlan
from fewbits.reporting.table_parts import clean, facts_table

if TYPE_CHECKING:
    from rich.console import RenderableType


def destination(plan: PushPlan) -> str:
    """The repository, and who will see it."""
    seen = "private" if plan.private else "public"
    return f"{plan.repository} ({f'new, {seen}' if plan.creates else f'exists, {seen}'})"


def push_tables(plan: PushPlan, size: int) -> list[RenderableType]:
    """What will be uploaded, before anything is sent."""
    facts = [("to", destination(plan)), ("files", ", ".join(plan.files)), ("size", figures.size(size))]
    return [facts_table("Upload", facts), *(Text(clean(f"Note: {note}")) for note in plan.notes)]


def pushed_tables(pushed: Pushed) -> list[RenderableType]:
    """What the hub has now."""
    facts = [
        ("uploaded", f"{len(pushed.files)} files, {figures.size(pushed.bytes)}"),
        ("commit", pushed.commit),
        ("at", pushed.url),
    ]
    return [Text(), facts_table("Uploaded", facts)]


def push_json(result: Pushed | PushPlan) -> dict[str, Any]:
    """Either as plain data."""
    return asdict(result)
