"""``python -m kernelprof``."""

from kernelprof.cli import main

if __name__ == "__main__":
    main()
