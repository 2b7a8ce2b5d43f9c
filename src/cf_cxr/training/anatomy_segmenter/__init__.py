"""Training of segmenters of anatomy and devices, on phantoms of random looks."""
