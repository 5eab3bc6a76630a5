"""From a folder of images to a dataset, its splits, its pixels: everything before a network sees anything."""
