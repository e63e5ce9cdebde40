"""Applications that nobody here wrote, mirrored while they are driven through their own code.

``python -m tests.applications`` runs them; ``make applications`` makes their environment first.
"""
