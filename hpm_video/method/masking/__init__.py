"""Which units are hidden: units, keys, mask strategies, and what is decoded. Knows neither modality nor model."""
