"""Django's own ORM test suite as judge of what is captured: ``python -m tests.judge``; see docs/judge.md."""
