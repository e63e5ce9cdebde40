"""What is wrong with the capture, or would be missed by it, and the mend of each: ``mirrordoctor``.

``gather`` asks the settings, the models and the database; ``examine`` judges what it found. Neither
changes anything.
"""

from __future__ import annotations

from mirror.doctor.examination import Finding, Severity, examine
from mirror.doctor.facts import gather

__all__ = ["Finding", "Severity", "examine", "gather"]
