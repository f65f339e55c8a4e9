"""What is measured, and all code that runs inside an engine's interpreter.

Code here runs on Python 3.9 with NumPy 1.19 too, imports the standard library, NumPy and (in an
adapter) its own engine, and never imports ``kernelprof``.
"""
