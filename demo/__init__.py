"""The runnable example: a polls site on a local server, mirrored live to a central one."""
