"""Every network that an artifact can hold: backbones, their inputs and features, predictors, explanations."""
