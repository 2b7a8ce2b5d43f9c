"""Training: a folder for each stage, on `transformers.Trainer`; `loop` is what they share."""
