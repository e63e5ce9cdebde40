"""The inflow: a source's stream into this server's database."""
