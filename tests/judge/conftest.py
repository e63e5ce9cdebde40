from __future__ import annotations

from tests.mirror.conftest import _templates, source, source_path

__all__ = ["_templates", "source", "source_path"]
