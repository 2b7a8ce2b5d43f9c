"""Why a classifier decides as it does: one protocol, several explainers, one `Explanation` that they all return."""
