"""The models: attribute SCM, attribute classifier, image mechanisms, and their composition."""
