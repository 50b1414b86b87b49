"""Sources: a change at a source becomes an event. Each kind of source has a file, and all run on the loop of ``consumers.runner``."""
