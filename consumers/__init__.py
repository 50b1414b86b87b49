"""Sources: what changes there becomes events. One file each, all on the loop of ``consumers.runner``."""
