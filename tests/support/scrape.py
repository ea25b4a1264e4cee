"""What a Prometheus makes of /metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.support.shop import Shop

Labels = frozenset[tuple[str, str]]
LOOPBACK = "127.0.0.1"


class Scrape:
    """One reading."""

    def __init__(self, body: bytes) -> None:
        self.families = {each.name: each for each in text_string_to_metric_families(body.decode())}
        self.samples: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample's value; 0.0 if there is none, as Prometheus counts from."""
        return self.samples.get((f"velvetrope_{name}", frozenset(labels.items())), 0.0)

    def has(self, name: str, **labels: str) -> bool:
        """Whether there is such a sample."""
        return (f"velvetrope_{name}", frozenset(labels.items())) in self.samples


async def scrape(shop: Shop) -> Scrape:
    """A reading from next door."""
    reply = await shop.visit("GET", "/metrics", client=LOOPBACK)
    assert reply.status == 200, reply.body
    return Scrape(reply.body)
