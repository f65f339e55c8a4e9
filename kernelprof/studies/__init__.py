"""Studies of kernelprof itself: each is a command, and its result is kept in reports/published."""
