"""The study: file -> plan -> graph -> run folder, and what is done with a finished model."""
