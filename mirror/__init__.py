"""The record: what changed, in what order. Installed on the source and on the centre."""
