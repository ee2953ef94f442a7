"""What the demo's shop sells: a catalogue made by chance, and by the same chance each time."""

import random
from dataclasses import dataclass
from typing import Final

CATEGORIES: Final = ("books", "garden", "kitchen", "music", "tools")
NOUNS: Final = ("kettle", "lamp", "notebook", "record", "rake", "saw", "shelf", "spoon", "stool", "trowel")
QUALITIES: Final = ("blue", "folding", "heavy", "narrow", "oak", "plain", "small", "steel", "striped", "tall")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in the catalogue. `modified` is in whole seconds since the epoch, as HTTP dates are."""

    id: int
    name: str
    category: str
    price_pence: int
    stock: int
    description: str
    modified: int
    version: int = 1

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "name": self.name,
            "category": self.category,
            "price_pence": self.price_pence,
            "stock": self.stock,
            "description": self.description,
            "version": self.version,
        }


def make_catalogue(count: int, before: int) -> dict[int, Item]:
    """So many items, the same at each call, changed in the month that ended at `before` (seconds since the epoch)."""
    chance = random.Random(7)  # the same catalogue at each start
    items = {}
    for number in range(1, count + 1):
        quality, noun = chance.choice(QUALITIES), chance.choice(NOUNS)
        words = " ".join(chance.choice(QUALITIES + NOUNS) for _ in range(chance.randrange(20, 120)))
        items[number] = Item(
            id=number,
            name=f"{quality} {noun}",
            category=chance.choice(CATEGORIES),
            price_pence=chance.randrange(99, 30_000),
            stock=chance.randrange(500),
            description=f"A {quality} {noun}: {words}.",
            modified=before - chance.randrange(30 * 86_400),
        )
    return items
