"""A terminal in small: what is to be seen after everything that was written to it."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\x1b\[(?P<numbers>[?\d;]*)(?P<command>[A-Za-z])|(?P<character>[\s\S])")


class Screen:
    """Knows what ``rich`` uses. Raises ValueError for any other control sequence."""

    def __init__(self, written: str, *, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self.cursor_is_shown = True
        for piece in _PIECE.finditer(written):
            if piece["character"] is None:
                self._obey(piece["numbers"], piece["command"])
            else:
                self._put(piece["character"])

    @property
    def lines(self) -> list[str]:
        """Without the empty ones at the end; what is longer than a line goes on in the next."""
        lines = ["".join(row).rstrip() for row in self._rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _obey(self, numbers: str, command: str) -> None:
        if command == "m":
            return
        if numbers == "?25":
            self.cursor_is_shown = command == "h"
        elif command == "A":
            self._row = max(0, self._row - int(numbers or 1))
        elif (numbers, command) == ("2", "K"):
            self._rows[self._row] = []
        else:
            raise ValueError(f"unknown: ESC [ {numbers} {command}")

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._break()
        elif character >= " ":
            if self._column == self._columns:
                self._break()
            row = self._rows[self._row]
            row.extend(" " * (self._column + 1 - len(row)))
            row[self._column] = character
            self._column += 1
        else:
            raise ValueError(f"unknown: {character!r}")

    def _break(self) -> None:
        self._row += 1
        self._column = 0
        if self._row == len(self._rows):
            self._rows.append([])
