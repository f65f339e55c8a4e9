"""Why a network is slow in an engine: where its time goes, causes, and their proof."""
