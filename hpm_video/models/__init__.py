"""CLIP -> PREDICTIONS: tokens, encoder, student, classifier. Knows neither data sets nor the method."""
