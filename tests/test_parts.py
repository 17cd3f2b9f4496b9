"""Parts: declaring, finding, validating, writing out, and what they say about themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fairlead import parts
from fairlead.parts import (
    Part,
    describe_problems,
    fields_of,
    get_part,
    nearest,
    part_info,
    parts_in_slot,
    parts_within,
    slots,
)


class House(BaseModel):
    """Stands for a recipe; its fields are set per test, because slots live in a registry of their own here."""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SLOTS", {})
    monkeypatch.setattr(parts, "_PARTS", {})


@pytest.fixture
def house() -> Any:
    class Heater(Part, slot="heater"):
        power: float = Field(1.0, gt=0, description="kW")

    class Stove(Heater, name="stove"):
        """Burns wood.

        It is warm.

        Source: Franklin 1742,
        page 3.

        More about it.
        """

        wood: str = Field("oak", description="what it burns")

    class Fan(Heater, name="fan"):
        """Blows."""

        speeds: list[int] = Field(default_factory=lambda: [1, 2])
        needed: int = 0

        def state_dict(self) -> dict[str, Any]:
            return {"needed": self.needed}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.needed = state["needed"]

    class House(BaseModel):
        model_config = ConfigDict(extra="forbid")

        heater: Heater = Field(default_factory=Stove)
        others: list[Heater] = Field(default_factory=list)
        rooms: dict[str, Heater] = Field(default_factory=dict)
        guest: Heater | None = None

    House.parts = (Heater, Stove, Fan)  # type: ignore[attr-defined]
    return House


def problems(model: Any, value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return [str(problem) for problem in describe_problems(caught.value, model)]


def test_slots_and_their_parts(house: Any) -> None:
    heater, stove, fan = house.parts
    assert slots() == {"heater": heater}
    assert parts_in_slot("heater") == {"stove": stove, "fan": fan}
    assert (stove.slot, stove.part_name, heater.part_name) == ("heater", "stove", "")
    with pytest.raises(KeyError):
        parts_in_slot("cooker")


def test_a_part_is_given_by_name_mapping_or_instance(house: Any) -> None:
    _, stove, fan = house.parts
    assert isinstance(house(heater="fan").heater, fan)
    assert house(heater={"part": "fan", "speeds": [3]}).heater.speeds == [3]
    own = stove(wood="ash")
    assert house(heater=own).heater is own
    made = house(others=["fan", {"part": "stove", "wood": "elm"}], rooms={"hall": "fan"}, guest="stove")
    assert [part.part_name for part in made.others] == ["fan", "stove"]
    assert made.others[1].wood == "elm"
    assert isinstance(made.rooms["hall"], fan) and isinstance(made.guest, stove)


def test_two_uses_of_a_part_do_not_share_state(house: Any) -> None:
    first, second = house(heater="fan"), house(heater="fan")
    first.heater.needed = 5
    assert second.heater.needed == 0


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ({"heater": "stov"}, "heater", ["unknown heater part 'stov'", "did you mean 'stove'?"]),
        ({"heater": "zzz"}, "heater", ["choose from fan, stove"]),
        ({"heater": {"wood": "oak"}}, "heater", ["'part' is missing", "fan, stove"]),
        ({"heater": 3}, "heater", ["name of a heater part", "'part'"]),
        ({"heater": {"part": "stove", "wod": "x"}}, "heater.wod", ["unknown key 'wod'", "did you mean 'wood'?"]),
        ({"heater": {"part": "stove", "power": -1}}, "heater.power", ["greater than 0", "got -1"]),
        ({"heater": {"part": "fan", "speeds": [1, "x"]}}, "heater.speeds.1", ["integer", "got 'x'"]),
        ({"others": ["fan", "fen"]}, "others.1", ["did you mean 'fan'?"]),
        ({"rooms": {"hall": {"part": "fan", "sped": 1}}}, "rooms.hall.sped", ["did you mean 'speeds'"]),
        ({"heatr": "fan"}, "heatr", ["unknown key 'heatr'", "did you mean 'heater'?"]),
        ({"guest": "fna"}, "guest", ["unknown heater part 'fna'"]),
    ],
)
def test_errors_say_where_and_what_instead(house: Any, value: Any, path: str, words: list[str]) -> None:
    found = problems(house, value)
    line = next(line for line in found if line.startswith(f"{path}: "))
    for word in words:
        assert word in line


def test_all_problems_are_told_at_once(house: Any) -> None:
    assert len(problems(house, {"heater": "x", "others": ["y"], "roms": 1})) == 3


def test_a_required_key(house: Any) -> None:
    heater = house.parts[0]

    class Kiln(heater, name="kiln"):  # type: ignore[misc, valid-type]
        clay: str

    assert problems(house, {"heater": "kiln"}) == ["heater.clay: this key is required"]


def test_a_wrong_mapping_does_not_bury_the_message(house: Any) -> None:
    from pydantic import model_validator

    class Picky(house.parts[0], name="picky"):  # type: ignore[misc, name-defined]
        @model_validator(mode="after")
        def _check(self) -> Picky:
            raise ValueError("never good enough")

    assert problems(house, {"heater": {"part": "picky"}}) == ["heater: never good enough"]


def test_writing_out_and_reading_again(house: Any) -> None:
    made = house(heater={"part": "fan", "speeds": [7]}, others=["stove"], rooms={"hall": "fan"})
    tree = made.model_dump(mode="json")
    assert tree["heater"] == {"part": "fan", "power": 1.0, "speeds": [7], "needed": 0}
    assert tree["others"][0]["part"] == "stove" and tree["guest"] is None
    again = house.model_validate(tree)
    assert again.model_dump(mode="json") == tree
    assert type(again.heater) is type(made.heater)


def test_finding_a_part(house: Any) -> None:
    _, stove, _ = house.parts
    assert get_part("stove") is get_part("stove", "heater") is get_part("heater.stove") is stove
    with pytest.raises(LookupError, match="did you mean 'stove'"):
        get_part("stve")
    with pytest.raises(LookupError):
        get_part("stove", "cooker")

    class Cooker(Part, slot="cooker"):
        pass

    class CookingStove(Cooker, name="stove"):
        pass

    with pytest.raises(LookupError, match=r"heater\.stove, cooker\.stove"):
        get_part("stove")
    assert get_part("cooker.stove") is CookingStove


def test_a_name_or_slot_that_is_taken(house: Any) -> None:
    with pytest.raises(TypeError, match="already defined"):

        class OtherStove(house.parts[0], name="stove"):  # type: ignore[misc, name-defined]
            pass

    with pytest.raises(TypeError, match="already open"):

        class OtherHeater(Part, slot="heater"):
            pass

    with pytest.raises(TypeError, match="no slot"):

        class Homeless(Part, name="homeless"):
            pass

    assert "homeless" not in {name for slot in slots() for name in parts_in_slot(slot)}


def test_a_subclass_without_a_name_is_no_part(house: Any) -> None:
    class BigStove(house.parts[1]):  # type: ignore[misc, name-defined]
        pass

    assert BigStove.part_name == ""
    assert "part" not in BigStove().model_dump()
    assert len(parts_in_slot("heater")) == 2


def test_state(house: Any) -> None:
    _, stove, fan = house.parts
    moved = fan(needed=4)
    other = fan()
    other.load_state_dict(moved.state_dict())
    assert other.needed == 4
    assert stove().state_dict() == {}
    stove().load_state_dict({})
    with pytest.raises(ValueError, match="keeps no state"):
        stove().load_state_dict({"ash": 1})


def test_what_a_part_says_about_itself(house: Any) -> None:
    info = part_info(house.parts[1])
    assert (info.name, info.slot, info.summary) == ("stove", "heater", "Burns wood.")
    assert info.source == "Franklin 1742, page 3."
    assert info.documentation.endswith("More about it.")
    assert [(f.name, f.type, f.default, f.description) for f in info.fields] == [
        ("power", "float", "1.0", "kW"),
        ("wood", "str", "oak", "what it burns"),
    ]
    assert part_info(house.parts[2]).source == ""


def test_defaults_that_are_parts_are_shown_by_name(house: Any) -> None:
    class Room(Part, slot="room"):
        pass

    class Hall(Room, name="hall"):
        heater: house.parts[0] = Field(default_factory=house.parts[1])  # type: ignore[name-defined]
        width: int

    fields = {field.name: field.default for field in part_info(Hall).fields}
    assert fields == {"heater": "stove", "width": "required"}


def test_defaults_are_shown_as_a_recipe_writes_them() -> None:
    class Door(BaseModel):
        width: float = 0.9
        locks: list[str] = Field(default_factory=list)

    class Flat(BaseModel):
        number: int | None = None
        front: Door = Field(default_factory=Door)
        back: Door = Field(default_factory=lambda: Door(width=1.2))
        name: str = Field("", description="on the bell")

    fields = {field.name: (field.type, field.default, field.description) for field in fields_of(Flat)}
    assert fields == {
        "number": ("int | None", "null", ""),
        "front": ("Door", "Door", ""),
        "back": ("Door", "Door(width=1.2)", ""),
        "name": ("str", "", "on the bell"),
    }


def test_parts_are_found_however_deep(house: Any) -> None:
    heater, stove, fan = house.parts

    class Double(heater, name="double"):  # type: ignore[misc, valid-type]
        halves: list[heater] = Field(default_factory=list)  # type: ignore[valid-type]

    class Street(BaseModel):
        houses: dict[str, house]
        spare: tuple[heater, ...] = ()  # type: ignore[valid-type]
        number: int = 1

    double = Double(halves=["fan", stove()])
    built = house(heater=double, others=["stove"], rooms={"hall": "fan"})
    street = Street(houses={"one": built}, spare=(fan(),))
    found = dict(parts_within(street))
    assert {path: type(part) for path, part in found.items()} == {
        "houses/one/heater": Double,
        "houses/one/heater/halves/0": fan,
        "houses/one/heater/halves/1": stove,
        "houses/one/others/0": stove,
        "houses/one/rooms/hall": fan,
        "spare/0": fan,
    }
    assert found["houses/one/heater"] is double
    assert [path for path, _ in parts_within(double)] == ["halves/0", "halves/1"]
    assert list(parts_within(stove())) == list(parts_within("stove")) == []


def test_nearest() -> None:
    assert nearest("claer", ["clear", "cloud"]) == "did you mean 'clear'?"
    assert nearest("xyz", ["b", "a"]) == "choose from a, b"
    assert nearest("xyz", []) == "there is none"


def test_the_parts_of_the_house_are_documented() -> None:
    """Every shipped part names its paper and describes every field."""
    code = (
        "import fairlead.recipes\n"
        "from fairlead.parts import part_info, parts_in_slot, slots\n"
        "for slot in slots():\n"
        "    for name, part in parts_in_slot(slot).items():\n"
        "        info = part_info(part)\n"
        "        assert info.summary and info.source, (slot, name)\n"
        "        assert all(field.description for field in info.fields), (slot, name)\n"
    )
    source = Path(parts.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
