"""The shop's pictures: twenty different ones, each complete in itself."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from engine.ops.catalogue import CATALOGUE
from engine.pages.pictures import draw

PICTURES = [draw(seed, drop.name) for seed, drop in enumerate(CATALOGUE)]
SVG = "{http://www.w3.org/2000/svg}"


def test_every_picture_is_an_svg_with_its_name_as_title() -> None:
    for drop, picture in zip(CATALOGUE, PICTURES, strict=True):
        root = ElementTree.fromstring(picture)
        assert root.tag == f"{SVG}svg"
        assert root.findtext(f"{SVG}title") == drop.name


def test_a_name_cannot_break_out_of_its_title() -> None:
    root = ElementTree.fromstring(draw(3, "</title><script>&"))

    assert root.findtext(f"{SVG}title") == "</title><script>&"
    assert not list(root.iter(f"{SVG}script"))


def test_twenty_seeds_give_twenty_pictures_and_always_the_same_ones() -> None:
    nameless = [draw(seed, "") for seed in range(20)]

    assert len(set(nameless)) == 20
    assert nameless == [draw(seed, "") for seed in range(20)]


def test_pictures_fetch_and_run_nothing() -> None:
    for picture in PICTURES:
        addresses = re.findall(r"[a-z]+://[^\"]*", picture)
        assert addresses == ["http://www.w3.org/2000/svg"]  # the namespace's name
        assert "href" not in picture
        assert "<script" not in picture
        assert set(re.findall(r"url\(([^)]*)\)", picture)) <= {
            "#sky", "#light", "#dark", "#mesh", "#shell", "#base"
        }  # fmt: skip


def test_what_a_picture_refers_to_is_in_it() -> None:
    for picture in PICTURES:
        made = set(re.findall(r'id="([^"]+)"', picture))
        used = set(re.findall(r"url\(#([^)]+)\)", picture))
        assert used <= made


def test_the_catalogue_names_each_picture_after_its_seed() -> None:
    assert [drop.picture.partition("-")[0] for drop in CATALOGUE] == [str(n) for n in range(20)]
