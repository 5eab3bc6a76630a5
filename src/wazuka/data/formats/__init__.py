"""One file per image format; `wazuka.data.decode` chooses between them and is what other code imports."""
