"""The selfcheck: does kernelprof work on this device, and are its numbers to be trusted there?

``steps`` runs everything once within a few minutes; ``goals`` judges what came of it.
"""
