"""One module for each change of the schema, in the order of their names; never changed once released.

``PHASE = "expand"`` adds what the next version of the program needs, and leaves what the present one needs. It runs
when the first process of a new version starts. ``PHASE = "contract"`` removes what no controller needs any more. Each
`upgrade` may be cut short and run again. ``python -m tools.revision`` writes them.
"""
