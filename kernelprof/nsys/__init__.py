"""Under nsys: record a run, read nsys's export, and give GPU work to the ranges that launched it.

``tool`` finds nsys, ``record`` runs a command under it; ``export_file`` reads what it wrote,
``assign`` and ``activity`` say what belongs to which range, ``importing`` stores that in a run,
``scrub`` makes an export fit to share.
"""
