"""BLIP: captions, questions, matching, features and training."""
