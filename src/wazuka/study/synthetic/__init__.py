"""Synthetic images in a study: what is asked for, generators and their images as steps, what they are tested on, audits."""
