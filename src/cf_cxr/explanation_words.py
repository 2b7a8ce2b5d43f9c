"""What an explanation says about itself, in words; one that fails says so."""

from __future__ import annotations

from collections.abc import Sequence

PRESENT, ABSENT = "present", "absent"


def decision_word(posterior: float, threshold: float) -> str:
    """`"present"` from the threshold on, else `"absent"`."""
    return PRESENT if posterior >= threshold else ABSENT


def probability_text(value: float, threshold: float = 0.5) -> str:
    """Two decimals, or as many as tell the value from the threshold: 0.4996 is not written as 0.50."""
    for digits in range(2, 7):
        text = f"{value:.{digits}f}"
        if value == threshold or float(text) != round(threshold, digits):
            return text
    return text


def operating_point_note(operating_point: float, shifted: Sequence[float]) -> str:
    """Says beside the classifier's own posteriors what they are on the scale that the explainer was trained on.

    Args:
        operating_point: the classifier's posterior that is 0.5 on the shifted scale.
        shifted: the first and the last posterior of the message, on the shifted scale.
    """
    first, last = (probability_text(value) for value in shifted)
    return (
        f" (These are the classifier's own posteriors. On the scale shifted so that its operating point "
        f"{operating_point:g} is 0.5, {'it is ' + first if first == last else first + ' becomes ' + last}.)"
    )


def first_flip(source_posterior: float, posteriors: Sequence[float], threshold: float) -> int | None:
    """Position of the first posterior on the other side of the boundary than the query's; None if there is none."""
    before = source_posterior >= threshold
    return next((i for i, p in enumerate(posteriors) if (p >= threshold) != before), None)


def explanation_message(
    class_name: str,
    source_posterior: float,
    targets: Sequence[float],
    posteriors: Sequence[float],
    threshold: float = 0.5,
    at_target: bool = False,
) -> str:
    """One or two sentences: which decision, how far the series got, and whether that is an explanation.

    Args:
        class_name: the class whose posterior it is.
        source_posterior: of the query.
        targets, posteriors: asked for and reached, one per image of the series.
        threshold: decision boundary.
        at_target: whether the query needed no change.
    """

    def text(value: float) -> str:
        return probability_text(value, threshold)

    word, last = decision_word(source_posterior, threshold), posteriors[-1]
    journey = f"the posterior of {class_name!r} goes from {text(source_posterior)} to {text(last)}"
    if at_target:
        return (
            f"Already at the target: the classifier says {text(source_posterior)} for {class_name!r} ({word}), and "
            f"{text(targets[-1])} was asked for, so there is nothing to change and no decision flips."
        )
    flip = first_flip(source_posterior, posteriors, threshold)
    close = (
        " Already the first image, the query's reconstruction, is across: the query is close to the boundary, or the "
        "explainer does not know such images."
        if flip == 0
        else ""
    )
    where = "" if flip is None else f"at image {flip + 1} of {len(posteriors)} ({text(posteriors[flip])})"
    if flip is not None and decision_word(last, threshold) != word:
        other = decision_word(last, threshold)
        return f"Valid: {journey}; the decision flips from {word} to {other} {where}.{close}"
    if flip is not None:
        return (
            f"Not valid: the decision flips {where} and comes back; {journey}, where {text(targets[-1])} was asked "
            f"for.{close}"
        )
    if decision_word(targets[-1], threshold) == word:
        return (
            f"Not valid: the target {text(targets[-1])} lies on the query's own side of the boundary {threshold:g} "
            f"({word}), so no flip was asked for; {journey}."
        )
    return (
        f"Not valid: the decision stays {word}; {journey}, where {text(targets[-1])} was asked for, and does not cross "
        f"{threshold:g}."
    )
