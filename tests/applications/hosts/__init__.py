"""Host projects: the settings and URLs that a user of each application would write."""
