"""How far long work is: a progress bar on a terminal, plain lines elsewhere. Imports nothing that is slow to load."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...vocabulary import Event, Work

T = TypeVar("T")

WIDE = 110  # columns where nothing says how wide the output is

_SHOWN = {"training loss": "loss"}


def console(stderr: bool = False) -> Console:
    """Where a command prints: colours and the true width on a terminal, plain and wide elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


class Watch:
    """A consumer of events: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, out: Console) -> None:
        self.out, self.epochs, self.steps = out, 0, 0
        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=out, transient=True)
        self.task: Any = None

    def __enter__(self) -> Watch:
        if self.out.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.out.is_terminal:
            self.bar.stop()

    def show(self, event: Event) -> None:
        """Show one event."""
        values = event.values
        if event.kind == "notice":
            self.out.print(values["text"])
        elif event.kind == "progress":
            self._move(values["what"], values["done"], values["of"])
        elif event.kind == "start":
            self.epochs, self.steps = values["epochs"], values["steps"]
        elif event.kind == "step":
            done = event.step - event.epoch * self.steps
            self._move(f"epoch {event.epoch + 1}/{self.epochs}", done, self.steps, f"loss {values['loss']:.3f}")
        elif event.kind == "epoch":
            shown = "   ".join(f"{_SHOWN.get(name, 'val ' + name)} {value:.4f}" for name, value in values.items())
            self.out.print(f"epoch {event.epoch}/{self.epochs}   {shown}")
        elif event.kind == "stop":
            self.out.print(f"stopped: {values['reason']}")

    def _move(self, what: str, done: int, of: int, text: str = "") -> None:
        if not self.out.is_terminal:
            return
        if self.task is None or self.bar.tasks[0].description != what:
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.task = self.bar.add_task(what, total=of, text=text)
        self.bar.update(self.task, completed=done, text=text)


def watched(out: Console, work: Generator[Event, None, T]) -> T:
    """Show the events of long work; its result."""
    with Watch(out) as watch:
        while True:
            try:
                watch.show(next(work))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


def counted(out: Console, work: Work[T], what: str, of: int) -> T:
    """Show how far long work is, of `of` pictures; its result."""
    from ...runs import scoring

    return watched(out, scoring.told(work, what, of))
