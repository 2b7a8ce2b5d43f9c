"""Identity preservation as an evaluate module; `cf_cxr.metrics.identity` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.identity import identity_preservation


class IdentityPreservation(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Is an explanation still the same patient? Cosine distance between the embeddings of image and
explanation, the same between different patients for scale, and the share of explanations whose nearest image among those
of other patients and their own is their own (ties are misses). Depends on the embedding and the number of distractors.
"""
    INPUTS = f"""
Args:
    predictions: embeddings of the explanations (N, D).
    references: embeddings of the source images (N, D); those of other patients are the distractors.
{base.PATIENTS_DESCRIPTION}    extractor (`str`): name of the network that made the embeddings; required, and part of the result.
    n_distractors (`int`): draws this many other images per explanation; without it all are used.
{base.INTERVAL_DESCRIPTION}Returns:
    distance, reference_distance, reidentification; each with "_interval"; n_distractors, undefined (rows left out since
    an embedding is all zero or there is nobody else), extractor.
"""

    def columns(self):
        return {"predictions": base.numbers(), "references": base.numbers(), "patients": base.TEXT}

    def score(self, data, extractor=None, n_distractors=None, n_resamples=1000, seed=0):
        if not extractor:
            raise ValueError("Name the network that made the embeddings: compute(..., extractor=...).")
        out = identity_preservation(
            data["references"],
            data["predictions"],
            n_distractors=n_distractors,
            patients=base.patient_names(data["patients"]),
            n_resamples=n_resamples,
            seed=seed,
        )
        counts = {name: out.pop(name) for name in ("n_distractors", "undefined")}
        return {**base.with_intervals(out), **counts, "extractor": extractor}
