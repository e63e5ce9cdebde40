"""The paths by which rows are written, each listed once; importing this lists them all."""

from tests.mirror.write_paths import cascades, orm, sql, triggers

__all__ = ["cascades", "orm", "sql", "triggers"]
