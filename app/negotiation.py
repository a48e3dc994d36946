"""Which form of answer a client accepts (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from app.problems import NotAcceptable

JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"


def choose(accept: str | None, offers: Sequence[str] = (JSON, NDJSON, SSE)) -> str:
    """The offer that the client likes best, the first of equals. Raises NotAcceptable when it likes none.

    The most specific range that matches an offer gives its weight: text/event-stream before text/* before */*.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = []
    for part in accept.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    weight = min(max(float(value), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        ranges.append((name.lower(), weight))

    def weight_of(offer: str) -> float:
        for wanted in (offer, offer.split("/")[0] + "/*", "*/*"):
            weights = [weight for name, weight in ranges if name == wanted]
            if weights:
                return max(weights)
        return 0.0

    best = max(offers, key=weight_of)
    if weight_of(best) == 0:
        raise NotAcceptable(f"The Accept header is {accept!r}. This answer can be {', '.join(offers)}.")
    return best
