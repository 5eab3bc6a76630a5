"""What every layer needs and no library has: errors, strict configuration, hashes, atomic records, registries."""
