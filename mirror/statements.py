"""Which tables an SQL statement writes to, read from its text. Pure.

It reads what Django and people write for SQLite, PostgreSQL, MariaDB and MySQL. What a function, a
procedure, a trigger, a view or a prepared statement does is not in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Write", "bare_name", "writes"]


@dataclass(frozen=True, slots=True)
class Write:
    #: Its verb: "INSERT", "UPDATE", "ALTER TABLE"...
    operation: str
    #: Without schema and quotes, in lower case.
    table: str
    #: The columns that an UPDATE sets, in lower case; None where they are not told one by one.
    columns: frozenset[str] | None = None

    @property
    def defines(self) -> bool:
        """True where it changes the table itself."""
        return self.operation.endswith(" TABLE")


def writes(sql: str, vendor: str = "") -> tuple[Write, ...]:
    """Every write of every statement in the text. ``vendor`` is that of a Django connection."""
    if sql[:6].upper() == "SELECT" and ";" not in sql:
        return ()
    return _remembered(sql, vendor) if len(sql) <= _SHORT else _read(sql, vendor)


def bare_name(table: str) -> str:
    """A table's name as ``Write`` has it, from Django's ``db_table``."""
    parts = re.findall(r'[^"`\[\].]+', table)
    return str(parts[-1]).lower() if parts else table.lower()


#: Characters of a text that is worth remembering: what the ORM makes again and again.
_SHORT = 4000


def _read(sql: str, vendor: str) -> tuple[Write, ...]:
    return tuple(write for statement in _statements(_tokens(sql, vendor)) for write in statement.writes())


_remembered = lru_cache(maxsize=1024)(_read)


# Words

#: What is passed over: white space, comments, and rows of placeholders, of which there may be thousands.
_PASSED = r"\s+|(?:\(\s*%s(?:\s*,\s*%s)*\s*\)\s*,?\s*)+"
_QUOTED = r'"[^"]*(?:""[^"]*)*"|`[^`]*(?:``[^`]*)*`'
_REST = r"[\w$]+|."


def _pattern(passed: str, literal: str, quoted: str = _QUOTED) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<passed>{_PASSED}|{passed})|(?P<literal>{literal})|(?P<token>{quoted}|{_REST})", re.DOTALL
    )


_PLAIN = _pattern(r"--[^\n]*|/\*.*?(?:\*/|\Z)", r"(?!)", rf"{_QUOTED}|'[^']*(?:''[^']*)*'|\[[^\]]*\]")
_PATTERNS = {
    "postgresql": _pattern(
        r"--[^\n]*",
        r"[eE]'(?:[^'\\]|''|\\.)*'|'[^']*(?:''[^']*)*'|\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$",
    ),
    # What stands in /*! */ is executed.
    "mysql": _pattern(
        r"--(?=\s|\Z)[^\n]*|\#[^\n]*|/\*M?!\d*|/\*.*?(?:\*/|\Z)|\*/",
        r"'(?:[^'\\]|''|\\.)*'",
        r'"(?:[^"\\]|""|\\.)*"|`[^`]*(?:``[^`]*)*`',
    ),
}
_NAME = re.compile(r"""["'`\[]..*|[\w$]+""", re.DOTALL)


def _tokens(sql: str, vendor: str) -> Iterator[str]:
    pattern, at = _PATTERNS.get(vendor, _PLAIN), 0
    while at < len(sql):
        if vendor == "postgresql" and sql.startswith("/*", at):
            at = _after_comment(sql, at)
            continue
        found = pattern.match(sql, at)
        assert found is not None  # the last alternative is any character
        at = found.end()
        if found["token"]:
            yield found["token"]
        elif found["literal"]:
            yield "''"


def _after_comment(sql: str, at: int) -> int:
    """PostgreSQL's comments may hold comments."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(sql)


# Statements

_VERBS = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "MERGE", "TRUNCATE"})
#: With these a statement begins that writes, or that holds one that does.
_HOLDERS = frozenset({"EXPLAIN", "ANALYZE", "PREPARE", "BEGIN"})
_DEFINITIONS = frozenset({"ALTER", "DROP", "RENAME"})
_BEGINNINGS = _VERBS | _HOLDERS | _DEFINITIONS | {"WITH", "COPY", "LOAD"}
_BODIES = frozenset({"TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"})
_JOINS = frozenset({",", "JOIN", "STRAIGHT_JOIN"})
_MODIFIERS = frozenset(
    {"OR", "ROLLBACK", "ABORT", "REPLACE", "FAIL", "IGNORE", "LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED"}
    | {"QUICK", "ONLY", "INTO", "TABLE", "IF", "EXISTS", "LATERAL", "ONLINE"}
)
#: Words behind a table that are no alias of it.
_NO_ALIAS = frozenset(
    {"SET", "WHERE", "USING", "ON", "FROM", "JOIN", "INNER", "LEFT", "RIGHT", "CROSS", "OUTER", "FULL"}
    | {"NATURAL", "STRAIGHT_JOIN", "ORDER", "LIMIT", "RETURNING", "PARTITION", "FORCE", "USE", "IGNORE"}
    | {"INDEXED", "NOT", "TO"}
)
_END_OF_DELETE = frozenset({"WHERE", "ORDER", "LIMIT", "RETURNING"})
_END_OF_SET = frozenset({"WHERE", "FROM", "ORDER", "LIMIT", "RETURNING"})


def _statements(tokens: Iterator[str]) -> Iterator[_Statement]:
    statement: list[str] = []
    for word in tokens:
        if word != ";":
            statement.append(word)
            continue
        made = _Statement(statement)
        if made.has_body():
            return  # what follows is still of it
        yield made
        statement = []
    yield _Statement(statement)


class _Statement:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        #: A quoted name keeps its quotes, and so is no keyword.
        self.words = [token.upper() for token in tokens]

    def word(self, at: int) -> str:
        return self.words[at] if at < len(self.words) else ""

    def has_body(self) -> bool:
        return self.word(0) == "CREATE" and not _BODIES.isdisjoint(self.words[1:10])

    def writes(self) -> Iterator[Write]:
        begin = next((at for at, word in enumerate(self.words) if word != "("), 0)
        first = self.word(begin)
        if first not in _BEGINNINGS or (first == "EXPLAIN" and "ANALYZE" not in self.words):
            return
        if first in _DEFINITIONS:
            yield from self._definition(begin)
            return
        if first == "COPY":
            yield from self._copy(begin)
        elif first == "LOAD":
            yield from self._load(begin)
        held = first in _HOLDERS
        for at, word in enumerate(self.words):
            if word in _VERBS and (held or self._begins(at)):
                held = False
                yield from self._written(word, at + 1)

    def _begins(self, at: int) -> bool:
        """A statement of its own, and not a clause: FOR UPDATE, DO UPDATE, THEN DELETE."""
        return at == 0 or self.words[at - 1] in {"(", ")"}

    def _written(self, verb: str, at: int) -> Iterator[Write]:
        if verb == "UPDATE":
            return self._update(self._skip(at))
        if verb == "DELETE":
            return self._delete(self._skip(at))
        if verb == "TRUNCATE":
            return (Write(verb, table) for table in self._list(self._skip(at))[0])
        named = self._path(self._skip(at))
        return iter([Write(verb, named[0])] if named else [])

    # One kind each

    def _update(self, at: int) -> Iterator[Write]:
        references, at = self._references(at, frozenset({"SET"}))
        if self.word(at) != "SET":
            return
        assigned = self._assigned(at + 1)
        if len(references) < 2 or assigned is None or not all(owner for owner, _ in assigned):
            # Whose a column is that names no table, the text alone does not say.
            known = (
                None if assigned is None or len(references) > 1 else frozenset(name for _, name in assigned)
            )
            yield from (Write("UPDATE", table, known) for table, _alias in references)
            return
        for table, alias in references:
            columns = frozenset(column for owner, column in assigned if owner in {alias, table})
            if columns:
                yield Write("UPDATE", table, columns)

    def _assigned(self, at: int) -> list[tuple[str, str]] | None:
        """Table or alias, or nothing, and column, of each assignment."""
        found: list[tuple[str, str]] = []
        depth, expected = 0, True
        while depth >= 0 and at < len(self.words):
            if expected:
                names, at = self._names(at)
                if not names or self.word(at) != "=":
                    return None
                found.append((names[-2] if len(names) > 1 else "", names[-1]))
            word = self.words[at]
            if not depth and word in _END_OF_SET and self.words[at - 1] != "DISTINCT":
                break
            depth += (word == "(") - (word == ")")
            expected = word == "," and not depth
            at += 1
        return found

    def _delete(self, at: int) -> Iterator[Write]:
        if self.word(at) == "FROM":
            targets, at = self._list(self._skip(at + 1))
            if self.word(at) == "USING":
                references, _ = self._references(at + 1, _END_OF_DELETE)
            else:
                references = []
        else:
            targets, at = self._list(at)
            if self.word(at) != "FROM":
                return
            references, _ = self._references(at + 1, _END_OF_DELETE)
        aliases = {alias: table for table, alias in references if alias}
        for target in targets:
            yield Write("DELETE", aliases.get(target, target))

    def _copy(self, at: int) -> Iterator[Write]:
        named = self._path(at + 1)
        if named is None:
            return  # of a query
        table, at = named
        while self.word(at) not in {"FROM", "TO", ""}:
            at += 1
        if self.word(at) == "FROM":
            yield Write("COPY", table)

    def _load(self, at: int) -> Iterator[Write]:
        for place in range(at, len(self.words) - 2):
            if self.words[place : place + 2] == ["INTO", "TABLE"] and (named := self._path(place + 2)):
                yield Write("LOAD DATA", named[0])
                return

    def _definition(self, at: int) -> Iterator[Write]:
        verb = self.word(at)
        if "TABLE" not in self.words[at + 1 : at + 4]:
            return
        tables, end = self._list(self._skip(at + 1))
        while verb == "RENAME" and self.word(end) == "TO":  # a TO b, c TO d
            _new, end = self._names(end + 1)
            more, end = self._list(end + 1) if self.word(end) == "," else ([], end)
            tables += more
        for table in tables[: 1 if verb == "ALTER" else None]:
            yield Write(f"{verb} TABLE", table)

    # Names

    def _skip(self, at: int) -> int:
        while self.word(at) in _MODIFIERS:
            at += 1
        return at

    def _names(self, at: int) -> tuple[list[str], int]:
        """The parts of a name in lower case, and what comes after it."""
        names: list[str] = []
        while at < len(self.tokens) and _NAME.fullmatch(self.tokens[at]):
            names.append(_unquoted(self.tokens[at]))
            if self.word(at + 1) != ".":
                return names, at + 1
            at += 2
        return names, at + 1 if self.word(at) == "*" else at  # of "DELETE a.* FROM"

    def _path(self, at: int) -> tuple[str, int] | None:
        names, at = self._names(at)
        return (names[-1], at) if names else None

    def _list(self, at: int) -> tuple[list[str], int]:
        found = []
        while named := self._path(at):
            table, at = named
            found.append(table)
            at += self.word(at) == "*"
            _alias, at = self._alias(at)
            if self.word(at) != ",":
                break
            at = self._skip(at + 1)
        return found, at

    def _references(self, at: int, end: frozenset[str]) -> tuple[list[tuple[str, str]], int]:
        """Table and alias of each that is named, up to one of these words."""
        found, depth, expected = [], 0, True
        while at < len(self.words):
            word = self.words[at]
            if not depth and word in end:
                break
            if word in {"(", ")"}:
                depth += 1 if word == "(" else -1
                if depth < 0:
                    break
            elif not depth and word in _JOINS:
                expected = True
            elif not depth and expected and (named := self._path(self._skip(at))):
                table, at = named
                alias, at = self._alias(at)
                found.append((table, alias))
                expected = False
                continue
            at += 1
        return found, at

    def _alias(self, at: int) -> tuple[str, int]:
        at += self.word(at) == "AS"
        if at < len(self.tokens) and self.word(at) not in _NO_ALIAS and _NAME.fullmatch(self.tokens[at]):
            return _unquoted(self.tokens[at]), at + 1
        return "", at


def _unquoted(name: str) -> str:
    quote = name[0]
    if quote not in "\"'`[":
        return name.lower()
    return name[1:-1].replace(quote * 2, quote).lower()
