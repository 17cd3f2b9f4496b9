"""Stories and talks told from frames: the same course of events with other people, things and words, each of which stays what it was.

A frame is a record with an `id`, what it is `about`, and a `text` in which `[this|that]` is a choice of words and `{thing}` is drawn once
for the whole story. `<get {tool}>` is an episode: one of those of its kind that ship with the project, in which it is {it}, and which may
hold episodes again. The frame of a talk has `turns` instead of a text, of the user and the assistant one after the other. What belongs
together is drawn together: an animal and its food, a broken thing and what mends it. A frame or an episode may bring `draws` of its own: `{"bait": ["worm", "crumb"], "tool, job": ["saw, cut", "hammer, nailed"]}`.

Knows: frames, the words that fill them.
Does not know: tokenizers, models.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["TELLINGS", "asked_for", "talked", "told"]

TELLINGS = 3
"""Stories that are told from each frame, and talks."""
_ASKED_FOR = 1

_GIRLS = ("Anna", "Mia", "Rosa", "Kate", "Lucy", "Sara", "Lily")
_BOYS = ("Tom", "Ben", "Max", "Leo", "Tim", "Jack", "Sam")
_HE = {"he": "he", "him": "him", "his": "his", "himself": "himself", "kind": "boy", "sibling": "brother"}
_SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "kind": "girl", "sibling": "sister"}

_ONE_OF: dict[str, tuple[str, ...]] = {
    name: tuple(words.split("|"))
    for name, words in {
        "box": "box|basket|shed|barrel|cart",
        "cake": "cake|pie|plum cake|nut cake|pizza",
        "color": "red|blue|green|yellow|white|black|brown|pink",
        "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
        "dirty": "dog|puppy|kitten|cat",
        "fast": "rabbit|horse|fox|deer|goat|dog|cat",
        "fruit": "plums|apples|pears|cherries|nuts|berries",
        "hunter": "dog|cat|kitten|puppy",
        "judge": "owl|crow|frog|bear|goose",
        "load": "log|pumpkin|cheese|melon|loaf of bread|branch",
        "many": "a lot of|ten|many|twenty",
        "manyfood": "ten cakes|twenty loaves of bread|a whole cart of apples|a tub of soup",
        "Neighbor": "Mrs. Bell|Mr. Hill|Mrs. Brown|Mr. Gray",
        "outdoors": "park|garden|meadow|yard",
        "pet": "dog|cat|kitten|puppy|rabbit",
        "plain": "barrel|bush|sack|coat|cart|log|box|broom",
        "scary": "bear|wolf|giant|monster|dragon|lion",
        "seat": "bench|wall|grass|stairs",
        "slow": "turtle|snail|duck|hedgehog|pig|hen|mole",
        "snack": "sandwiches|cake|cookies|bread and jam|plums|cheese and bread",
        "spot3": "bush|tree|grass|barn",
        "thing": "ball|doll|kite|drum|toy car|teddy bear|toy boat|puppet|balloon|book|wagon",
        "toy": "ball|kite|boat|drum|train|car|wagon",
        "vase": "vase|cup|plate|bowl|lamp",
        "wrong": "closet|box|bag|drawer",
    }.items()
}
_SEVERAL_OF: dict[tuple[str, ...], tuple[str, ...]] = {
    ("Elder", "Elder2"): ("Mom", "Dad", "Grandma", "Grandpa"),
    ("goods", "goods2"): ("apple", "pear", "cookie", "sandwich", "banana", "plum", "carrot", "egg"),
    ("landmark", "landmark2"): ("tree", "stone", "gate", "bridge", "pond", "barn", "hill", "fence", "well"),
    ("job1", "job2", "job3", "job4"): (
        *("washed the car", "swept the yard", "watered the flowers", "carried the wood", "cleaned the windows"),
        *("fed the hens", "picked the beans", "raked the leaves", "washed the dishes", "set the table"),
        *("walked the dog", "peeled the potatoes"),
    ),
}
_PLACES = {
    "garden": ("bush", "tree", "bench", "bucket", "fence"),
    "park": ("bench", "tree", "bush"),
    "kitchen": ("stove", "chair", "basket"),
    "barn": ("ladder", "cart", "bucket"),
    "yard": ("fence", "bench", "bucket", "tree"),
    "attic": ("box", "chest", "chair", "lamp"),
    "meadow": ("stone", "tree", "bush"),
    "school yard": ("bench", "tree", "gate"),
}
_ANIMALS = (  # what it likes, what it does not eat, how it moves, where it lives
    ("rabbit", "carrots", ("cheese", "fish", "meat"), "hopped", "hole"),
    ("dog", "bones", ("hay", "grass", "carrots"), "ran", "house"),
    ("cat", "fish", ("grass", "carrots", "hay"), "ran", "house"),
    ("mouse", "cheese", ("fish", "grass"), "ran", "hole"),
    ("bird", "seeds", ("meat", "milk", "cheese"), "flew", "nest"),
    ("horse", "hay", ("meat", "fish", "cheese"), "ran", "barn"),
    ("goat", "grass", ("fish", "meat"), "jumped", "barn"),
    ("duck", "corn", ("bones", "cheese"), "swam", "pond"),
    ("squirrel", "nuts", ("fish", "meat", "soup"), "climbed", "tree"),
    ("monkey", "bananas", ("hay", "fish"), "jumped", "tree"),
    ("bear", "honey", ("hay", "grass"), "walked", "cave"),
    ("fox", "meat", ("hay", "carrots"), "ran", "den"),
    ("sheep", "hay", ("meat", "fish"), "walked", "barn"),
    ("pig", "potatoes", ("bones", "fish"), "walked", "barn"),
    ("donkey", "carrots", ("fish", "meat"), "walked", "barn"),
    ("turtle", "lettuce", ("meat", "cheese"), "walked", "pond"),
    ("parrot", "nuts", ("meat", "soup"), "flew", "tree"),
    ("kitten", "milk", ("hay", "carrots"), "ran", "house"),
    ("hen", "corn", ("fish", "bones"), "ran", "barn"),
)
_LITTLE = tuple(
    animal
    for animal in _ANIMALS
    if animal[0] in {"rabbit", "mouse", "bird", "duck", "squirrel", "fox", "turtle", "kitten"}
)
_STRONG = (
    *(("bear", "cave"), ("rabbit", "hole"), ("mouse", "hole"), ("fox", "den"), ("pig", "barn")),
    *(("beaver", "lake"), ("hedgehog", "nest"), ("goat", "barn"), ("badger", "den"), ("dog", "house")),
)
_MENDED = (  # what breaks, how, and what mends it
    ("cup", "lost its handle", "glue"),
    ("picture book", "had a torn page", "tape"),
    ("kite", "had a big hole", "tape"),
    ("teddy bear", "lost an ear", "a needle and thread"),
    ("plate", "broke in two", "glue"),
    ("toy boat", "lost its mast", "glue"),
    ("doll", "lost an arm", "glue"),
    ("wooden horse", "lost a leg", "a hammer and a nail"),
    ("toy train", "lost a wheel", "a small screw"),
    ("umbrella", "had a hole", "a needle and thread"),
    ("little chair", "lost a leg", "a hammer and a nail"),
    ("bag", "had a torn strap", "a needle and thread"),
    ("lamp", "had a crack", "tape"),
    ("drum", "had a hole", "tape"),
)
_SKILLS = (  # what is learned, and how it goes wrong
    ("swim", "swallowed water"),
    ("ride a bike", "fell off"),
    ("skate", "fell on the ice"),
    ("juggle", "dropped the balls"),
    ("whistle", "made no sound"),
    ("climb a rope", "slid down"),
    ("play the flute", "played a wrong note"),
    ("dance", "stepped on a foot"),
    ("jump rope", "got caught in the rope"),
    ("ski", "fell in the snow"),
    ("ride a horse", "slid off"),
    ("walk on a wall", "fell off"),
    ("dive", "hit the water flat"),
    ("sew", "pricked a finger"),
)
_WARM = (("hat", "ears were"), ("cap", "ears were"), ("scarf", "neck was"), ("coat", "arms were"))
_MADE = (
    ("paper and glue", "paper star"),
    ("wool", "scarf"),
    ("wood and nails", "small box"),
    ("clay", "cup"),
    ("cloth", "pillow"),
    ("paper and paint", "picture"),
    ("beads and string", "chain"),
    ("wood and string", "bird house"),
    ("paper and string", "lantern"),
)
_REQUESTS = (
    "Tell me a story about {}.",
    "Can you tell me a story about {}?",
    "Write a short story about {}.",
    "I want to hear a story about {}.",
)


def told(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """The stories of a frame, the same at every call."""
    return [{"text": _tell(frame["text"], _cast(draw, frame), draw)} for draw in _draws(frame, "told", TELLINGS)]


def asked_for(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """Dialogues: a story of the frame on request, the same at every call."""
    dialogues = []
    for draw in _draws(frame, "asked for", _ASKED_FOR):
        cast = _cast(draw, frame)
        request, story = draw.choice(_REQUESTS).format(frame["about"]), _tell(frame["text"], cast, draw)
        dialogues.append(_dialogue([_fill(request, cast), story]))
    return dialogues


def talked(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """The talks of a frame that has turns, the same at every call."""
    talks = []
    for draw in _draws(frame, "talked", TELLINGS):
        cast = _cast(draw, frame)
        talks.append(_dialogue([_tell(turn, cast, draw) for turn in frame["turns"]]))
    return talks


def _dialogue(turns: list[str]) -> dict[str, Any]:
    return {
        "messages": [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    }


def _draws(frame: dict[str, Any], purpose: str, count: int) -> list[random.Random]:
    return [random.Random(f"{frame['id']} {purpose} {number}") for number in range(count)]


def _cast(draw: random.Random, frame: dict[str, Any]) -> dict[str, str]:
    """A word for every name that a frame may use."""
    cast = {name: draw.choice(words) for name, words in _ONE_OF.items()}
    for names, words in _SEVERAL_OF.items():
        cast.update(zip(names, draw.sample(words, len(names)), strict=True))
    cast["A"], cast["B"], cast["C"] = draw.sample(_GIRLS + _BOYS, 3)
    for word, form in (_SHE if cast["A"] in _GIRLS else _HE).items():
        cast |= {word: form, word.capitalize(): form.capitalize()}
    cast |= {f"b{word}": form for word, form in (_SHE if cast["B"] in _GIRLS else _HE).items()}
    cast["place"] = draw.choice(tuple(_PLACES))
    cast["spot"], cast["spot2"] = draw.sample(_PLACES[cast["place"]], 2)
    cast["animal"], cast["food"], refused, *_ = draw.choice(_ANIMALS)
    cast["badfood"] = draw.choice(refused)
    cast["animal2"] = draw.choice([animal[0] for animal in _ANIMALS if animal[0] != cast["animal"]])
    cast["little"], _, _, cast["little_moved"], cast["little_home"] = draw.choice(_LITTLE)
    (cast["strong"], cast["strong_home"]), (cast["strong2"], _) = draw.sample(_STRONG, 2)
    cast["mthing"], cast["broke"], cast["tool"] = draw.choice(_MENDED)
    cast["skill"], cast["failed"] = draw.choice(_SKILLS)
    cast["warmthing"], cast["part"] = draw.choice(_WARM)
    cast["material"], cast["made"] = draw.choice(_MADE)
    return _with_own(cast, frame, draw)


def _with_own(cast: dict[str, str], frame: dict[str, Any], draw: random.Random) -> dict[str, str]:
    """The cast and what a frame or an episode draws for itself."""
    cast = dict(cast)
    for names, options in frame.get("draws", {}).items():
        cast.update(zip(names.split(", "), _fill(draw.choice(options), cast).split(", "), strict=True))
    return cast


def _tell(text: str, cast: dict[str, str], draw: random.Random) -> str:
    """A text of a frame with its episodes, its choices made and its names filled in; no episode comes twice."""
    seen: set[str] = set()

    def with_episodes(text: str, cast: dict[str, str]) -> str:
        def episode(found: re.Match[str]) -> str:
            chosen = draw.choice([other for other in _episodes()[found["kind"]] if other["id"] not in seen])
            seen.add(chosen["id"])
            it = _fill(found["it"] or "", cast)
            inner = _with_own(cast | {"it": it, "It": it[:1].upper() + it[1:]}, chosen, draw)
            return with_episodes(chosen["text"], inner)

        return _fill(re.sub(r"<(?P<kind>[\w-]+)(?: (?P<it>[^<>]+))?>", episode, text), cast)

    whole = with_episodes(text, cast)
    return _articles(re.sub(r"\[([^\[\]]*)\]", lambda found: draw.choice(found[1].split("|")), whole))


@cache
def _episodes() -> dict[str, list[dict[str, Any]]]:
    """The episodes that ship with the project, by kind."""
    lines = (resources.files("fairlead") / "assets" / "simple" / "episodes.jsonl").read_text(encoding="ascii")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for episode in map(json.loads, lines.splitlines()):
        kinds.setdefault(episode["kind"], []).append(episode)
    return kinds


def _fill(text: str, cast: dict[str, str]) -> str:
    """The text with its names filled in."""
    return _articles(re.sub(r"\{(\w+)\}", lambda found: cast[found[1]], text))


def _articles(text: str) -> str:
    """ "an" for "a" where it has to be."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
