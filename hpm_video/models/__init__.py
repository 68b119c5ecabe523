"""The networks: from clips to predictions. Nothing here knows data sets or the training method.

- tokens.py: pixels <-> tokens, position tables. layers.py: transformer blocks, stochastic depth, initialisation.
- encoder.py: the ViT encoder; it computes only the visible tokens (MAE).
- student.py: the model of pretraining: encoder, pixel decoder (self- or cross-attention) and loss predictor (HPM).
- classifier.py: the model of fine-tuning: encoder and linear head.
- interpolate.py: position tables and patch embeddings for another grid. average.py: the EMA of weights.
"""
