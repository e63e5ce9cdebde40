"""What people do with each application: through its own pages, commands and models."""
