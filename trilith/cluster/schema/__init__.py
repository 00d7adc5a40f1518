"""The database's schema over the program's versions. The declarations say what the newest one is; `revisions` holds the
steps that lead there; `migrate` takes them."""
