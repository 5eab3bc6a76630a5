"""The roles a technique can have, the training loop and the exact solver that techniques share."""
