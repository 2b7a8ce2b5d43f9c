"""Training and calibration of attribute classifiers."""
