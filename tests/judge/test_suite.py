from __future__ import annotations

from pathlib import Path

from tests.judge.suite import Suite, labels_of, newest


def test_the_newest_release_of_a_series_is_found_by_number(tmp_path):
    for name in ("django-5.2.9", "Django-5.2.10", "django-5.1.30", "django-6.0.1"):
        (tmp_path / f"{name}.tar.gz").touch()
    found = newest(tmp_path, "5.2")
    assert found is not None
    assert found.name == "Django-5.2.10.tar.gz"
    assert newest(tmp_path, "4.2") is None


def test_packages_with_models_are_run(tmp_path):
    for name in ("basic/models.py", "queries/models/__init__.py", "urls/tests.py", "gis_tests/models.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        (tmp_path / name.partition("/")[0] / "__init__.py").touch()
    suite = Suite(version="5.2", tests=tmp_path, python=Path("python"))
    assert labels_of(suite) == ["basic", "queries"]
