#!/usr/bin/env python
"""Django's command line. DJANGO_SETTINGS_MODULE names the server; without it, the demo's local one."""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings.local")
    execute_from_command_line(sys.argv)
