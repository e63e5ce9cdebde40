"""The polls of the Django tutorial, on models that merge from many sources."""
