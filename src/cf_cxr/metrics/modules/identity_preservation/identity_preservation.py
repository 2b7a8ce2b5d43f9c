"""Identity preservation as an evaluate module; `cf_cxr.metrics.identity` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.identity import identity_preservation


class IdentityPreservation(base.CXRMetric):
    """Is an explanation still the same patient? Cosine distance between the embeddings of image and explanation, the same
    between different patients for scale, and the share of explanations whose nearest image among those of other patients
    and their own is their own (ties are misses). Depends on the embedding and the number of distractors.

    Args:
        references: embeddings of the source images (N, D); those of other patients are the distractors.
        predictions: embeddings of the explanations (N, D).
        n_distractors (`int`): draws this many other images per explanation; without it all are used.
        distractors, distractor_patients: embeddings (M, D) of other images to be told from, and whose they are.

    Returns:
        distance, reference_distance, reidentification; each with "_interval"; n_distractors, undefined (rows left out
        since an embedding is all zero or there is nobody else), extractor.
    """

    function = staticmethod(identity_preservation)
    COLUMNS = {"references": base.NUMBERS, "predictions": base.NUMBERS, "patients": base.TEXT}
    EXTRACTOR = True
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
