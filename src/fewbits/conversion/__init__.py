"""The same numbers in another container or dialect: nothing is rounded, and everything is read again and compared."""
